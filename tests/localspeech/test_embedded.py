from __future__ import annotations

from llm2ws import connect
from llm2ws.audio import AudioFormat
from llm2ws.testing import script

FORMAT = AudioFormat(sample_rate_hz=8_000)


async def test_the_embedded_endpoint_speaks_without_a_key() -> None:
    async with connect(format=FORMAT) as conversation, conversation.turn(script("Hello there. ")) as turn:
        audio = b"".join([chunk async for chunk in turn.audio()])
    assert 0.3 < FORMAT.seconds(len(audio)) < 3.0
    assert any(audio)
