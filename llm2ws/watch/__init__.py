"""What an operator reads: log, journal, metrics."""

from __future__ import annotations
