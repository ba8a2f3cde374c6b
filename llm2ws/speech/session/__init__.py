"""The protocol state of one link to a speech endpoint."""

from __future__ import annotations
