"""What all tests of the Realtime API have."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _headers_are_not_logged() -> None:
    """At DEBUG the client's library logs what it sends, its key too."""
    logging.getLogger("websockets.client").setLevel(logging.INFO)
