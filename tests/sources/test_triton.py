"""Models behind KServe v2, over real gRPC. The official client reads first: to it, the server is as Triton is."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import grpc
import pytest
import trustme
from tritonclient.grpc import aio as tritonclient
from tritonclient.utils import InferenceServerException

from llm2ws import Aside
from llm2ws.errors import ConfigError, SourceError
from llm2ws.sources.failover import one_answer
from llm2ws.sources.model import ModelOptions, ModelSettings
from llm2ws.sources.prompt import Prompt
from llm2ws.sources.stream import Shape
from llm2ws.sources.triton import TritonModel
from tests.sources.asking import PROMPT, Ask, outcome_of
from tests.sources.replay import WHOLE
from tests.sources.triton import HOLD, VLLM, Abort, Failure, Final, Model, Step, Tensor, Triton, sdk_text, triton
from tests.support import MS, child_environment, texts_of

TOKENS = [WHOLE[i : i + 5] for i in range(0, len(WHOLE), 5)]
SO_FAR = [WHOLE[: i + 5] for i in range(0, len(WHOLE), 5)]
# As a server may have it whose models' tensors have names of their own.
OWN = Model(inputs=[Tensor("QUESTION", shape=(-1, 1))], outputs=[Tensor("TOKEN", shape=(-1, 1))], steps=TOKENS)
# As TensorRT-LLM's ensemble declares itself, with a dimension for the batch.
TENSORRT = Model(
    inputs=[
        Tensor("text_input", shape=(-1, 1)),
        Tensor("max_tokens", "INT32", (-1, 1)),
        Tensor("stop_words", shape=(-1, -1), required=False),
        Tensor("temperature", "FP32", (-1, 1), required=False),
        Tensor("stream", "BOOL", (-1, 1), required=False),
    ],
    outputs=[Tensor("text_output", shape=(-1,)), Tensor("context_logits", "FP32", (-1, -1))],
    steps=SO_FAR,
    decoupled=False,
    ensemble=True,
)


def asking(shape: Shape = Shape()) -> Ask:
    def ask(prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]:
        return one_answer(TritonModel(ModelSettings(**options), shape), prompt)

    return ask


def assert_line(error: SourceError | None, server: Triton, line: str) -> None:
    assert error is not None
    assert str(error).startswith(f"m at {server.url.partition('://')[2]}: {line}")
    assert "\n" not in str(error)
    assert not any("xyzzy" in shown for shown in texts_of(error))


# --- the server is as Triton is ----------------------------------------------------------------------------------------------


async def test_the_official_client_finds_it_to_behave_as_tritons() -> None:
    models = {"m": replace(VLLM, steps=TOKENS), "m.streaming": replace(VLLM, decoupled=False)}
    async with triton(Triton(models)) as server:
        async with tritonclient.InferenceServerClient(server.url.partition("://")[2]) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("m")
            assert not await client.is_model_ready("other")
            metadata = await client.get_model_metadata("m", as_json=True)
            config = (await client.get_model_config("m")).config
            index = await client.get_model_repository_index(as_json=True)
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.get_model_metadata("other")
        assert await sdk_text(server.url, "m") == WHOLE

    assert metadata["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": ["1"]}
    assert config.model_transaction_policy.decoupled
    assert {(one["name"], one["state"]) for one in index["models"]} >= {("m", "READY"), ("broken", "UNAVAILABLE")}


async def test_the_official_client_meets_an_error_within_the_stream() -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["One.", Failure("xyzzy")])})) as server:
        with pytest.raises(InferenceServerException, match="xyzzy"):
            await sdk_text(server.url, "m")


# --- answers ----------------------------------------------------------------------------------------------------------------

ANSWERS = {
    "vllm": replace(VLLM, steps=TOKENS),
    "vllm, marked end": replace(VLLM, steps=[*TOKENS, Final("stop")]),
    "vllm, so far": replace(VLLM, steps=SO_FAR),
    "typed contents": replace(VLLM, steps=TOKENS, raw=False),
    "other names": OWN,
    "other names, so far": replace(OWN, steps=SO_FAR),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_answers(name: str) -> None:
    async with triton(Triton({"m": ANSWERS[name]})) as server:
        text, asides, error = await outcome_of(asking(), server.url)

    assert (text, error) == (WHOLE, None)
    assert asides == [Aside("finish", {"reason": "stop", "usage": None})]
    assert PROMPT in server.inputs().values()


async def test_a_server_without_tritons_extensions() -> None:
    server = Triton({"m": replace(VLLM, steps=TOKENS)}, unimplemented=["ModelConfig", "RepositoryIndex"])
    async with triton(server), TritonModel(ModelSettings(model="m", base_url=server.url), Shape()) as client:
        assert await client.models() is None
        text, _, error = await outcome_of(asking(), server.url)

    assert (text, error) == (WHOLE, None)


async def test_what_a_vllm_model_is_given() -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["Yes."])})) as server:
        await outcome_of(asking(), server.url)
        plain = server.inputs()
        await outcome_of(asking(), server.url, max_tokens=9, temperature=0.5, stop=["END"], template="[INST] {prompt} [/INST]")

    assert plain == {
        "text_input": PROMPT,
        "stream": b"\1",
        "sampling_parameters": "{}",
        "exclude_input_in_output": b"\1",
        "return_finish_reason": b"\1",
    }
    assert server.inputs()["text_input"] == f"[INST] {PROMPT} [/INST]"
    assert json.loads(server.inputs()["sampling_parameters"]) == {"max_tokens": 9, "temperature": 0.5, "stop": ["END"]}


async def test_an_ensemble_of_tensorrt() -> None:
    async with triton(Triton({"m": TENSORRT})) as server:
        _, _, missing = await outcome_of(asking(), server.url)
        text, _, error = await outcome_of(asking(), server.url, max_tokens=9, stop=["END", "STOP"])

    assert_line(missing, server, "it wants the input max_tokens: set max_tokens")
    assert (text, error) == (WHOLE, None)
    shapes = {one.name: list(one.shape) for one in server.requests[0].inputs}
    assert shapes == {"text_input": [1, 1], "max_tokens": [1, 1], "stop_words": [1, 2], "stream": [1, 1]}
    assert server.inputs()["max_tokens"] == b"\x09\0\0\0"


async def test_names_and_a_request_of_ones_own() -> None:
    inputs = [Tensor("A"), Tensor("B", required=False), Tensor("N", "INT64", required=False)]
    model = Model(inputs=inputs, outputs=[Tensor("X"), Tensor("Y")], steps=TOKENS)
    shape = Shape(request='{"A": "{system}", "B": "{prompt}", "N": 7}', text_path="X")
    async with triton(Triton({"m": model})) as server:
        text, _, error = await outcome_of(asking(shape), server.url, system="Be brief.")
        assert server.inputs() == {"A": "Be brief.", "B": PROMPT, "N": (7).to_bytes(8, "little")}
        found = [str((await outcome_of(asking(one), server.url)).error) for one in (Shape(), replace(shape, text_path=""))]

    assert (text, error) == (WHOLE, None)
    assert "which input is the text is not known, it has one of A, B: set request" in found[0]
    assert "which output is the text is not known, it has one of X, Y: set text_path" in found[1]


async def test_what_a_model_says_of_itself_is_asked_for_once() -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["Yes."])})) as server:
        async with TritonModel(ModelSettings(model="m", base_url=server.url), Shape()) as client:
            for _ in range(3):
                async for _ in client.answer("Why?"):
                    pass

    assert server.calls == ["ModelMetadata", "ModelConfig", *["ModelStreamInfer"] * 3]


# --- what goes wrong --------------------------------------------------------------------------------------------------------


async def test_a_model_that_does_not_stream() -> None:
    once = replace(VLLM, decoupled=False)
    async with triton(Triton({"m": once, "m.streaming": VLLM, "n.streaming": VLLM})) as server:
        _, _, error = await outcome_of(asking(), server.url)
    assert_line(error, server, "it does not stream: set model to m.streaming")
    async with triton(Triton({"m": once})) as server:
        _, _, error = await outcome_of(asking(), server.url)
    assert_line(error, server, "it does not stream: set model to a decoupled one")
    assert "ModelStreamInfer" not in server.calls


async def test_a_model_that_is_not_there() -> None:
    async with triton(Triton({"n": VLLM, "o": VLLM})) as server:
        _, _, error = await outcome_of(asking(), server.url)

    assert_line(error, server, "it has no such model: it has n, o")


ABORTS = {
    "INVALID_ARGUMENT": ("INVALID_ARGUMENT, the request was refused", 400, False),
    "PERMISSION_DENIED": ("PERMISSION_DENIED, the key may not use this model", 403, False),
    "RESOURCE_EXHAUSTED": ("RESOURCE_EXHAUSTED, too many requests", 429, True),
    "INTERNAL": ("INTERNAL, an error of the server", 500, True),
    "UNAVAILABLE": ("the connection broke", None, True),
    "CANCELLED": ("the connection broke", None, True),
    "UNIMPLEMENTED": ("UNIMPLEMENTED, it does not speak KServe v2", None, False),
}


@pytest.mark.parametrize("code", ABORTS)
async def test_an_error_of_the_call(code: str) -> None:
    line, status, retry = ABORTS[code]
    steps: list[Step] = ["Half", " an", " answer", Abort(grpc.StatusCode[code], f"no: {PROMPT}")]
    async with triton(Triton({"m": replace(VLLM, steps=steps)})) as server:
        text, asides, error = await outcome_of(asking(), server.url)

    assert (text, asides) == ("Half an answer", [])
    assert_line(error, server, line)
    assert error is not None
    assert (error.status, error.retry) == (status, retry)


async def test_an_error_within_the_stream_gives_what_was_held_back() -> None:
    """While it is not known whether each output repeats the text so far."""
    steps: list[Step] = ["ha", "ha", Failure("CUDA out of memory: xyzzy")]
    async with triton(Triton({"m": replace(VLLM, steps=steps)})) as server:
        text, _, error = await outcome_of(asking(), server.url)

    assert text == "haha"
    assert_line(error, server, "failed while answering, the server has too little memory for the model")


@pytest.mark.parametrize(("word", "reason"), [("eos", "stop"), ("max_tokens", "length"), ("of its own", "of its own")])
async def test_its_reasons_in_the_words_of_chat_completions(word: str, reason: str) -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["Yes.", Final(word)])})) as server:
        text, asides, error = await outcome_of(asking(), server.url)

    assert (text, [aside.data["reason"] for aside in asides], error) == ("Yes.", [reason], None)


async def test_a_reason_that_says_that_it_gave_up() -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["Half", Final("abort")])})) as server:
        text, asides, error = await outcome_of(asking(), server.url)

    assert (text, asides) == ("Half", [])
    assert_line(error, server, "gave up while answering (abort)")


async def test_outputs_without_the_text_are_an_error() -> None:
    async with triton(Triton({"m": OWN})) as server:
        text, asides, error = await outcome_of(asking(Shape(text_path="ANSWER")), server.url)

    assert (text, asides) == ("", [])
    assert_line(error, server, "sent data in which there is no text that is known here: check the setting text_path")


async def test_a_call_that_ends_without_an_answer() -> None:
    async with triton(Triton({"m": VLLM})) as server:
        _, _, error = await outcome_of(asking(), server.url)

    assert_line(error, server, "answered with nothing that is no answer of a model")


@pytest.mark.parametrize("step", [Abort(grpc.StatusCode.UNAVAILABLE), Failure("no"), HOLD, Final("stop"), "more"])
async def test_no_generator_is_left_to_the_garbage_collector(step: Step) -> None:
    """It would close what is left in a task of its own, at any time later: of the client, and of the tests' server."""
    ask, left = asking(), list[object]()
    hooks = sys.get_asyncgen_hooks()
    gc.collect()
    sys.set_asyncgen_hooks(finalizer=left.append)
    try:
        async with triton(Triton({"m": replace(VLLM, steps=["Half", step])})) as server:
            await outcome_of(ask, server.url, stall_s=200 * MS)
            items = ask(PROMPT, model="m", base_url=server.url)
            assert await anext(items) == "Half"
            await items.aclose()
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert left == []


async def test_a_value_that_an_input_cannot_hold() -> None:
    model = Model(inputs=[Tensor("text_input"), Tensor("n", "INT32")], outputs=[Tensor("text_output")])
    async with triton(Triton({"m": model})) as server:
        _, _, wrong = await outcome_of(asking(Shape(request='{"text_input": "{prompt}", "n": "x"}')), server.url)
        _, _, unknown = await outcome_of(asking(Shape(request='{"text_input": "{prompt}", "n": 1, "o": 1}')), server.url)
        _, _, unplaced = await outcome_of(asking(), server.url, max_tokens=9)

    assert_line(wrong, server, "request: the input n is INT32, and its value is not: give a value of that type")
    assert_line(unknown, server, "it has no input o: write request for what it has: text_input, n")
    assert_line(unplaced, server, 'max_tokens is set, and request has no place for it: write "{max_tokens}" there')


async def test_over_tls_with_a_key_and_headers(tmp_path: Path, canary: Callable[[], str]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    chain = b"".join(one.bytes() for one in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    key = canary()
    shape = Shape(headers=[("X-Tenant", "one")])
    ca = {"ca_file": str(tmp_path / "ca.pem")}
    async with triton(Triton({"m": replace(VLLM, steps=TOKENS)}, key=key), credentials) as server:
        good = await outcome_of(asking(shape), server.url, api_key=key, ca_file=ca["ca_file"])
        metadata = server.metadata[-1]
        refused = await outcome_of(asking(shape), server.url, api_key=canary(), ca_file=ca["ca_file"])
        asked = await outcome_of(asking(shape), server.url, ca_file=ca["ca_file"])
        strange = await outcome_of(asking(shape), server.url, api_key=key)

    assert (good.text, good.error) == (WHOLE, None)
    assert (metadata["authorization"], metadata["x-tenant"]) == (f"Bearer {key}", "one")
    assert_line(refused.error, server, "UNAUTHENTICATED, the key was refused: set api_key to a valid key")
    assert_line(asked.error, server, "UNAUTHENTICATED, it asks for a key: set api_key")
    assert_line(strange.error, server, "UNAVAILABLE, its certificate is not trusted: set ca_file to the authority's PEM file")


async def test_tls_where_none_is_spoken() -> None:
    async with triton(Triton({"m": VLLM})) as server:
        secure = server.url.replace("http:", "https:")
        _, _, error = await outcome_of(asking(), secure)

    assert_line(error, server, "UNAVAILABLE, TLS failed: check whether base_url is https:// or http://")


def test_settings_that_cannot_be_right() -> None:
    for options, line in [
        (ModelSettings(), "no model is set for Triton"),
        (ModelSettings(model="m", base_url="localhost:8001"), "such as http://localhost:8001"),
        (ModelSettings(model="m", base_url="http://gpu.example:8001", api_key="k"), "in clear text"),
    ]:
        with pytest.raises(ConfigError) as caught:
            TritonModel(options, Shape())
        assert line in str(caught.value)


def test_what_is_missing_is_named_with_the_command_to_type(tmp_path: Path) -> None:
    """An interpreter that finds neither package."""
    code = """if True:
        import sys
        from importlib.machinery import PathFinder

        class Without(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name.partition(".")[0] in ("grpc", "tritonclient") else super().find_spec(name, path, target)

        sys.meta_path[sys.meta_path.index(PathFinder)] = Without
        from llm2ws.command.cli import main
        sys.exit(main(["say", "Why?", "--llm", "triton", "--model", "m", "--no-play"]))
    """
    command = [sys.executable, "-P", "-c", code]

    done = subprocess.run(command, env=child_environment(), cwd=tmp_path, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr == "llm2ws: Triton's protocol is not installed: pip install 'llm2ws[triton]'\n"
