"""The speech of one turn: what is said, what was heard, and when the next text is sent."""

from __future__ import annotations
