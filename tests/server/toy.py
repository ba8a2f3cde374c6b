"""A toy API, as a new one would be written: a text in, and its spoken words out as lines of text."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from llm2ws.server.api import Api, Route
from llm2ws.server.body import read_json
from llm2ws.server.client_turn import speak_to_client
from llm2ws.server.daemon import SERVICE
from llm2ws.server.sending import write
from llm2ws.sources.text import from_text
from llm2ws.turn import Said


class ToyRequest(msgspec.Struct):
    text: Annotated[str, Meta(min_length=1)]


async def _say(request: web.Request) -> web.StreamResponse:
    asked = await read_json(request, ToyRequest)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    async with speak_to_client(request, request[SERVICE].conversation(), from_text(asked.text), face="toy") as client_turn:
        async with aclosing(client_turn.events()) as events:
            async for event in events:
                if isinstance(event, Said):
                    await write(request, response, event.text.strip().encode() + b"\n")
    await response.write_eof()
    return response


API = Api([Route("POST", "/toy", _say, "A text, spoken", ("text/plain",), ToyRequest)])
