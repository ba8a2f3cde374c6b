from __future__ import annotations

import pytest

from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.testing import Coding, FaultySpeech, script
from llm2ws.text.fragments import Policy
from tests.turn.talk import heard, talk


async def test_a_long_text_keeps_every_limit_of_the_endpoint() -> None:
    enforced = Enforced(chars=2_400, flushes=20, window_s=0.3)
    text = " ".join(f"Sentence number {n} says little, but it says it." for n in range(150))
    quick = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
    async with FaultySpeech(coding=quick, limits=enforced) as speech:
        limits = Limits(2_000, 2_400, 20, 8, window_s=0.6)  # a busy machine delays messages
        async with talk(speech, limits=limits) as conversation:
            turn = conversation.turn(script(text))
            assert await heard(turn) == text
            assert turn.stats.refused_flushes == 0
        assert [how.code for how in speech.closed_with] == [1000]


@pytest.mark.parametrize("policy", Policy)
async def test_a_token_of_any_length_is_cut_for_the_endpoint(policy: Policy) -> None:
    quick = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
    text = "word " * 2_000 + "x" * 3_000
    limits = Limits(chars_per_speak=500)
    async with (
        FaultySpeech(coding=quick, limits=Enforced()) as speech,
        talk(speech, policy=policy, limits=limits) as conversation,
    ):
        await heard(conversation.turn(script(text)))
        assert "".join(speech.texts()).replace(" ", "") == text.replace(" ", "")
        assert max(map(len, speech.texts())) <= 500
