"""Every error that a caller can meet.

    Llm2wsError
    ├── ConfigError              a setting, flag or argument is wrong
    │   └── UnknownName          no model, endpoint or voice of that name is configured
    ├── SourceError              where the text comes from failed: an LLM, a file
    ├── SpeechError              the speech endpoint failed
    │   ├── ConnectFailed        no connection could be opened
    │   └── TurnLost             a turn could not be spoken to its end
    ├── LocalProtocolError       a method was called in a state that does not allow it
    ├── SlowConsumerError        the caller took no audio for too long
    └── SinkError                where the audio goes failed: a file, a device

`str(error)` is one line: what was wrong and where, then what to do. No secret and no text of a user or a model is in it.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConnectFailed",
    "Llm2wsError",
    "LocalProtocolError",
    "SinkError",
    "SlowConsumerError",
    "SourceError",
    "SpeechError",
    "TurnLost",
    "UnknownName",
]


class Llm2wsError(Exception):
    """Base of all errors of this package.

    `what` says what was wrong and where; `hint` says what to do about it, "" when there is no advice.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class ConfigError(Llm2wsError):
    """A setting, flag or argument is wrong. Nothing has been started."""


class UnknownName(ConfigError):
    """A model, an endpoint or a voice was asked for by a name that is not configured."""


class SourceError(Llm2wsError):
    """The source of the text failed. The text that it gave before has been spoken.

    `status` is the HTTP status, None when there was none. `retry` tells whether the same request may succeed later.
    """

    def __init__(self, what: str, *, hint: str = "", status: int | None = None, retry: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.retry = retry


class SpeechError(Llm2wsError):
    """The speech endpoint failed."""


class ConnectFailed(SpeechError):
    """No connection to the speech endpoint could be opened.

    `status` is the HTTP status of the refused handshake, None when there was no HTTP answer. `retry_s`: after how many
    seconds another try makes sense, None when it can only fail again.
    """

    def __init__(self, what: str, *, hint: str = "", status: int | None = None, retry_s: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.retry_s = retry_s


class TurnLost(SpeechError):
    """A turn could not be spoken to its end. `delivered_s`: seconds of audio that had been handed out."""

    def __init__(self, what: str, *, hint: str = "", delivered_s: float = 0.0) -> None:
        super().__init__(what, hint=hint)
        self.delivered_s = delivered_s


class LocalProtocolError(Llm2wsError):
    """A method was called in a state that does not allow it. The fix is in the calling code."""


class SlowConsumerError(Llm2wsError):
    """The turn ended because nobody took its audio. `waited_s`: how long the audio had waited, in seconds."""

    def __init__(self, what: str, *, hint: str = "", waited_s: float) -> None:
        super().__init__(what, hint=hint)
        self.waited_s = waited_s


class SinkError(Llm2wsError):
    """The place where the audio goes failed: a full disk, a missing device, a pipe whose reader is gone."""
