"""What the daemon counts, in the text format of Prometheus.

Names follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0, 30.0)

# Where the time of a turn went: what is measured, and between which two of its times.
_SPANS = {
    "first_token": ("The response began to the first token", None, "first_token_s"),
    "fragment_wait": ("First token to the first fragment", "first_token_s", "first_fragment_s"),
    "connect": ("The response began to a place on a connection", None, "connected_s"),
    "speech": ("First Flush to the first audio", "first_flush_s", "first_audio_s"),
    "first_audio": ("The response began to the first audio", None, "first_audio_s"),
    "turn": ("The response began to its end", None, "done_s"),
}

# Sums over turns: by the name of the field.
_COUNTS = {
    "source_chars": ("chars_received", "Characters that LLMs wrote"),
    "sent_chars": ("chars_sent", "Characters sent to speech endpoints"),
    "unspeakable_chars": ("chars_unspeakable", "Characters that hold nothing to be said"),
    "repeated_chars": ("chars_repeated", "Characters said again by another voice"),
    "flushes": ("flushes", "Flushes sent"),
    "refused_flushes": ("flushes_refused", "Flushes that an endpoint refused"),
    "resumed": ("resumes", "Connections lost in mid-turn, after which speech went on"),
    "audio_s": ("audio_seconds", "Speech handed out"),
}


class Metrics:
    """One set of counters, for one daemon."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._turns = Counter("llm2ws_turns", "Turns, by face and outcome", ["face", "outcome"], registry=registry)
        self._spans = {
            name: Histogram(f"llm2ws_{name}_seconds", text, ["outcome"], buckets=_SECONDS, registry=registry)
            for name, (text, _, _) in _SPANS.items()
        }
        self._counts = {field: Counter(f"llm2ws_{name}", text, registry=registry) for field, (name, text) in _COUNTS.items()}
        self._delayed = Counter("llm2ws_turns_delayed", "Turns that a limit of an endpoint held back", registry=registry)
        self._wasted = Counter("llm2ws_chars_wasted", "Characters sent and not heard", registry=registry)
        self._gaps = Counter("llm2ws_gaps", "Silences within answers, as heard", registry=registry)
        self._gap_seconds = Counter("llm2ws_gap_seconds", "How long they lasted", registry=registry)
        self._tokens = Counter("llm2ws_tokens", "Tokens, as LLMs count them", ["kind"], registry=registry)
        self._requests = Counter("llm2ws_requests", "Answered requests", ["face", "status"], registry=registry)
        self._ping = Gauge(
            "llm2ws_speech_ping_seconds",
            "What a ping takes to be answered; NaN before the first",
            ["endpoint"],
            registry=registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for when the metrics are read."""
        Gauge(f"llm2ws_{name}", text, registry=self._registry).set_function(value)

    def turn_ended(
        self, *, face: str, outcome: str, stats: Mapping[str, float | None], wasted_chars: int, gaps: int, gap_s: float
    ) -> None:
        """Count a turn. `stats`: its times and sums by name; `gaps`, `gap_s`: silences that its listener heard."""
        self._turns.labels(face, outcome).inc()
        for name, (_, begin, end) in _SPANS.items():
            begun, ended = stats.get(begin) if begin else 0.0, stats.get(end)
            if begun is not None and ended is not None:
                self._spans[name].labels(outcome).observe(max(0.0, ended - begun))
        for field, counter in self._counts.items():
            counter.inc(stats.get(field) or 0)
        self._delayed.inc(1 if stats.get("delayed") else 0)
        self._wasted.inc(wasted_chars)
        self._gaps.inc(gaps)
        self._gap_seconds.inc(gap_s)

    def tokens(self, kind: str, n: int) -> None:
        """Count tokens of a prompt or of an answer."""
        self._tokens.labels(kind).inc(n)

    def request(self, face: str, status: int) -> None:
        """Count an answered request."""
        self._requests.labels(face, str(status)).inc()

    def ping(self, endpoint: str, seconds: Callable[[], float]) -> None:
        """Add the gauge of how long an endpoint takes to answer a ping, asked for when the metrics are read."""
        self._ping.labels(endpoint).set_function(seconds)

    def exposition(self) -> bytes:
        """Return all metrics as a scraper reads them."""
        return generate_latest(self._registry)
