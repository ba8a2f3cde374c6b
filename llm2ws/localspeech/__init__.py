"""The embedded speech endpoint: espeak-ng in a child process, spoken to in Deepgram's protocol."""

from __future__ import annotations
