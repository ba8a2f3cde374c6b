"""Deepgram's own client cannot tell the embedded endpoint from the service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.localspeech.engine import Engine
from llm2ws.localspeech.server import SpeechServer

# The SDK's generated code, and the deprecated half of websockets that it still uses.
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]


async def test_a_conversation(engine: Engine, canary: Callable[[], str]) -> None:
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v1.types import SpeakV1Flushed, SpeakV1Metadata, SpeakV1Text
    from websockets.exceptions import ConnectionClosedError

    key = canary()
    async with SpeechServer(engine, key=key) as server:
        host, port = server.address
        ws, http = f"ws://{host}:{port}", f"http://{host}:{port}"
        environment = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
        speak = AsyncDeepgramClient(api_key=key, environment=environment).speak.v1

        for encoding, rate in (("linear16", "24000"), ("mulaw", "8000")):
            fmt = AudioFormat(Encoding(encoding), int(rate))
            async with speak.connect(model="aura-2-thalia-en", encoding=encoding, sample_rate=rate, speed=1.0) as socket:
                assert isinstance(await socket.recv(), SpeakV1Metadata)
                await socket.send_text(SpeakV1Text(type="Speak", text="One, two, three."))
                await socket.send_flush()
                audio = b""
                while isinstance(message := await socket.recv(), bytes):
                    audio += message
                assert isinstance(message, SpeakV1Flushed)
                assert (message.type, message.sequence_id) == ("Flushed", 0)
                assert 1.0 < fmt.seconds(len(audio)) < 2.5
                await socket.send_text(SpeakV1Text(type="Speak", text="Never mind."))
                await socket.send_clear()
                cleared = await socket.recv()  # which the SDK gives as a SpeakV1Flushed: its models do not look at the type
                assert not isinstance(cleared, bytes)
                assert cleared.type == "Cleared"
                await socket.send_close()
                assert [message async for message in socket] == []

        async with speak.connect(model="aura-2-thalia-en") as socket:
            await socket.send_text(SpeakV1Text(type="Speak", text="x" * 2001))
            with pytest.raises(ConnectionClosedError, match="BIG-0001"):
                assert [message async for message in socket] == []

        with pytest.raises(ApiError) as refused:
            async with speak.connect(model="aura-2-thalia-en", sample_rate="44100"):
                pass
        assert refused.value.status_code == 400
        stranger = AsyncDeepgramClient(api_key="wrong", environment=environment).speak.v1
        with pytest.raises(ApiError) as refused:
            async with stranger.connect(model="aura-2-thalia-en"):
                pass
        assert refused.value.status_code == 401
