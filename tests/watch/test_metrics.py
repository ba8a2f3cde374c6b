"""What is counted, and how."""

from __future__ import annotations

import pytest

from llm2ws.watch.metrics import Metrics

STATS = {"first_token_s": 0.1, "first_fragment_s": 0.3, "done_s": 2.0, "sent_chars": 80, "audio_s": 5.5, "delayed": True}


def value(metrics: Metrics, line: str) -> float:
    found = [row for row in metrics.exposition().decode().splitlines() if row.startswith(line + " ")]
    assert len(found) == 1, line
    return float(found[0].rpartition(" ")[2])


def test_a_turn_is_counted_by_its_face_and_outcome() -> None:
    metrics = Metrics()
    for outcome in ("done", "done", "lost"):
        metrics.turn_ended(face="chat", outcome=outcome, stats=STATS, wasted_chars=3, gaps=1, gap_s=0.5)
    assert value(metrics, 'llm2ws_turns_total{face="chat",outcome="done"}') == 2
    assert value(metrics, 'llm2ws_turns_total{face="chat",outcome="lost"}') == 1
    assert value(metrics, "llm2ws_chars_sent_total") == 240
    assert value(metrics, "llm2ws_chars_wasted_total") == 9
    assert value(metrics, "llm2ws_audio_seconds_total") == 16.5
    assert value(metrics, "llm2ws_gap_seconds_total") == 1.5
    assert value(metrics, "llm2ws_turns_delayed_total") == 3
    assert value(metrics, 'llm2ws_fragment_wait_seconds_sum{outcome="lost"}') == pytest.approx(0.2)


def test_what_did_not_happen_is_not_measured() -> None:
    metrics = Metrics()
    metrics.turn_ended(face="chat", outcome="done", stats={"first_token_s": None}, wasted_chars=0, gaps=0, gap_s=0.0)
    assert "llm2ws_first_token_seconds_count" not in metrics.exposition().decode()


def test_memory_processor_time_and_descriptors_of_the_process_are_there() -> None:
    metrics = Metrics()
    assert value(metrics, "process_resident_memory_bytes") > 1_000_000
    assert value(metrics, "process_cpu_seconds_total") > 0
    assert 3 <= value(metrics, "process_open_fds") < value(metrics, "process_max_fds")


def test_gauges_are_asked_when_they_are_read() -> None:
    metrics, now = Metrics(), [1.0]
    metrics.gauge("things", "Things", lambda: now[0])
    assert value(metrics, "llm2ws_things") == 1
    now[0] = 2.0
    assert value(metrics, "llm2ws_things") == 2
