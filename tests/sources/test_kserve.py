"""Which tensor is which, by what a model says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from llm2ws.errors import SourceError
from llm2ws.sources.kserve import ModelSignature, put, signature_of
from llm2ws.sources.model import LlmEndpoint, ModelSettings
from llm2ws.sources.triton import VENDOR

HERE = LlmEndpoint(VENDOR, "http://127.0.0.1", "127.0.0.1", "m", "", loopback=True)


def model(inputs: Sequence[str], outputs: Sequence[str], optional: Sequence[str] | None = None) -> ModelSignature:
    """Of tensors as "name" or "name:TYPE". `optional` None: the server gives no configuration."""
    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    tensors = [
        [tensor(name=one.partition(":")[0], datatype=one.partition(":")[2] or "BYTES", shape=[1]) for one in names]
        for names in (inputs, outputs)
    ]
    config = None
    if optional is not None:
        declared = [model_config_pb2.ModelInput(name=one.name, optional=one.name in optional) for one in tensors[0]]
        config = model_config_pb2.ModelConfig(input=declared)
    metadata = service_pb2.ModelMetadataResponse(inputs=tensors[0], outputs=tensors[1])
    return signature_of(metadata, config, None, "", ModelSettings(), HERE)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["QUESTION"], "QUESTION"),
        (["session", "prompt"], "prompt"),
        (["prompt", "text_input"], "text_input"),
        (["session:INT32", "words"], "words"),
    ],
)
def test_the_input_for_the_question(names: Sequence[str], chosen: str) -> None:
    found = model(names, ["out"])
    assert found.request.filled([{"role": "user", "content": "Why?"}], {}) == {chosen: "Why?"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["X", "logits:FP32"], "X"), (["finish_reason", "text_output"], "text_output"), (["output", "text"], "text")],
)
def test_the_output_with_the_answer(names: Sequence[str], chosen: str) -> None:
    assert model(["in"], names).text == chosen


@pytest.mark.parametrize(
    ("inputs", "outputs", "line"),
    [
        (["a", "b"], ["x"], "which input is the text is not known, it has one of a, b: set request"),
        (["a"], ["x:FP32"], "which output is the text is not known, it has none that holds text: set text_path"),
    ],
)
def test_what_cannot_be_known(inputs: Sequence[str], outputs: Sequence[str], line: str) -> None:
    with pytest.raises(SourceError) as caught:
        model(inputs, outputs)
    assert line in str(caught.value)


def test_what_a_model_must_be_given_is_known_from_its_configuration() -> None:
    assert model(["in", "n:INT32"], ["out"]).required == set()
    strict = model(["in", "n:INT32", "seed:INT64"], ["out"], optional=["seed"])
    assert strict.required == {"in", "n"}
    with pytest.raises(SourceError, match="it wants the input n"):
        put(strict, {"in": "Why?"}, service_pb2.ModelInferRequest(), HERE)
