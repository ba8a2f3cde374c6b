"""Speech endpoints without I/O: their dialects, the state of one link, the speech of one turn."""

from __future__ import annotations
