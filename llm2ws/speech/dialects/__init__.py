"""The vendors' protocols, a file each, and the table that names them. A new vendor is its file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..dialect import Dialect, Setup
from . import cartesia, deepgram, deepgram_v2, elevenlabs

__all__ = ["DIALECTS", "VendorDialect"]


@dataclass(frozen=True, slots=True)
class VendorDialect:
    """A row of `DIALECTS`: a vendor's protocol, whose key it takes, and its voices by OpenAI's names.

    `account`: the [speech.<name>] whose key it takes: its own name, unless the vendor has several protocols.
    `key_variable`: the vendor's own variable of the environment, which stands for the key of `account`.
    `openai_voices`: the vendor's voices for OpenAI's names of voices, which are the only ones that many clients can choose.
    Where a name is missing, the voice of the settings speaks.
    """

    make: Callable[[Setup], Dialect]
    account: str
    key_variable: str
    openai_voices: Mapping[str, str]

    def __call__(self, setup: Setup) -> Dialect:
        """Return the dialect for a Setup."""
        return self.make(setup)


DIALECTS: dict[str, VendorDialect] = {
    "deepgram": VendorDialect(deepgram.Deepgram, "deepgram", "DEEPGRAM_API_KEY", deepgram.VOICES),
    "deepgram-v2": VendorDialect(deepgram_v2.DeepgramV2, "deepgram", "DEEPGRAM_API_KEY", deepgram_v2.VOICES),
    "elevenlabs": VendorDialect(elevenlabs.ElevenLabs, "elevenlabs", "ELEVENLABS_API_KEY", elevenlabs.VOICES),
    "cartesia": VendorDialect(cartesia.Cartesia, "cartesia", "CARTESIA_API_KEY", cartesia.VOICES),
}
