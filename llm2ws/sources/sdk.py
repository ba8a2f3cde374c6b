"""Clients on the official SDKs: these send requests, with authentication and retries; answers are read from the bytes.

Making an SDK's objects of each chunk costs several times what all the rest of a token costs.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import SourceError
from .client import Client
from .faults import of_sdk, transport_errors

if TYPE_CHECKING:
    import anthropic
    import httpx2
    import openai

__all__ = ["HEADERS", "NO_KEY", "SdkClient", "reads_of"]

Sdk = TypeVar("Sdk", bound="openai.AsyncOpenAI | anthropic.AsyncAnthropic")

NO_KEY = "none"  # servers that ask for no key take any, and the SDKs want one
HEADERS = {"Accept-Encoding": "identity"}  # compressors hold tokens back


def reads_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Where nothing is to be unpacked, half of what the client does for each read is left out."""
    return response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()


class SdkClient(Client, Generic[Sdk]):
    """The same generator made both SDKs: what they have in common is here."""

    _sdk: Sdk

    def _load(self) -> tuple[type[Exception], ...]:
        self._sdk, root = self._make()
        return (root, *transport_errors())

    async def _connect(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._sdk.close)

    async def _models(self) -> list[str]:
        listed = json.loads((await self._sdk.models.with_raw_response.list()).http_response.content)
        return [str(model["id"]) for model in listed["data"]]

    def _source_error(self, exc: Exception) -> SourceError:
        return of_sdk(exc, self._endpoint)

    @abstractmethod
    def _make(self) -> tuple[Sdk, type[Exception]]:
        """The SDK's client, and the root of its exceptions. Blocks."""
