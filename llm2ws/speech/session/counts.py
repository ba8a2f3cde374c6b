"""What goes wrong on a connection without any turn taking harm."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["Counts"]

UNKNOWN_KINDS = 32  # So many kinds of unknown messages are counted by name.


@dataclass(slots=True)
class Counts:
    """What was counted on one connection; `str` gives what is not 0."""

    stray_audio: int = 0  # messages of audio that belong to no turn
    dropped_bytes: int = 0  # audio of cancelled turns
    stale_acks: int = 0
    refused_flushes: int = 0
    warnings: int = 0
    unknown: dict[str, int] = field(default_factory=dict)  # by the kind of message

    def count_unknown(self, kind: str) -> None:
        """Count a message of an unknown kind."""
        if kind not in self.unknown and len(self.unknown) >= UNKNOWN_KINDS:
            kind = "others"
        self.unknown[kind] = self.unknown.get(kind, 0) + 1

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value) or "nothing"
