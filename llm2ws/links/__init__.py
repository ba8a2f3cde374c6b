"""The only sockets to speech endpoints: wires, connections, and the pool of them."""

from __future__ import annotations
