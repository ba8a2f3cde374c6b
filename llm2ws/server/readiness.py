"""Whether a conversation could be spoken now."""

from __future__ import annotations

import asyncio
import logging

from ..errors import ConfigError, SpeechError
from ..service import Service
from .problems import to_problem

__all__ = ["Readiness"]

_log = logging.getLogger(__name__)

FRESH_S = 5.0  # An answer of the endpoint counts for so long, and the endpoint is not asked again.
PROBE_S = 3.0  # How long an endpoint may take to answer.


class Readiness:
    """Whether the speech endpoint has answered lately. It is asked when its last answer is old."""

    def __init__(self) -> None:
        self._answered_at = -float("inf")
        self._why_not = "no endpoint has answered yet"
        self._logged = ""
        self._asking = asyncio.Lock()

    async def why_not(self, service: Service, ready_s: float) -> str:
        """Return why no conversation could be spoken; "" when one could.

        An endpoint that has answered within the last `ready_s` seconds counts as ready.
        """
        now = asyncio.get_running_loop().time
        endpoint = service.speech[0]
        async with self._asking:
            if now() - self._answered_at > min(FRESH_S, ready_s):
                try:
                    async with asyncio.timeout(PROBE_S):
                        await service.warm()
                    self._answered_at = now()
                    self._logged = ""
                except TimeoutError:
                    self._why_not = f"{endpoint}: the speech endpoint did not answer in time"
                except (SpeechError, ConfigError) as exc:
                    self._log_once(str(exc))
                    wrong = "its settings are wrong: the log says how"
                    self._why_not = f"{endpoint}: {to_problem(exc).message if isinstance(exc, SpeechError) else wrong}"
        return self._why_not if now() - self._answered_at > ready_s else ""

    def _log_once(self, message: str) -> None:
        """Log a complaint unless it is the last one again: orchestrators ask every few seconds."""
        if message != self._logged:
            self._logged = message
            _log.warning("%s", message)
