"""The tensors of a model behind KServe v2, and the values for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import ConfigError, SourceError
from .model import LlmEndpoint, ModelSettings
from .prompt import RequestTemplate
from .tensors import packed, shape_of

__all__ = ["ModelSignature", "put", "signature_of"]

PROMPTS = ("text_input", "prompt", "text", "input")  # Usual names of the input for the question.
TEXTS = ("text_output", "text", "output")  # Usual names of the output with the answer.

# Inputs that models of the vLLM and TensorRT-LLM backends may have, and the values for them.
INPUTS: dict[str, object] = {
    "stream": True,
    "streaming": True,
    "exclude_input_in_output": True,
    "return_finish_reason": True,
    "max_tokens": "{max_tokens}",
    "sampling_param_max_tokens": "{max_tokens}",
    "temperature": "{temperature}",
    "sampling_param_temperature": "{temperature}",
    "top_p": "{top_p}",
    "sampling_param_top_p": "{top_p}",
    "stop_words": "{stop}",
    "sampling_param_stop": "{stop}",
    "sampling_parameters": {name: f"{{{name}}}" for name in ("max_tokens", "temperature", "top_p", "stop")},
}


class ModelSignature(NamedTuple):
    """The inputs and outputs of a model."""

    inputs: Mapping[str, Any]  # the metadata of each, by name
    required: frozenset[str]
    request: RequestTemplate  # a value for each input
    text: str  # the output with the answer


def signature_of(
    metadata: Any,
    config: Any,
    request: RequestTemplate | None,
    text: str,
    settings: ModelSettings,
    endpoint: LlmEndpoint,
) -> ModelSignature:
    """Return a model's signature by its ModelMetadataResponse and its ModelConfig (None if the server gives none).

    A `request` that is None and a `text` that is "" are found by the usual names of tensors. Raises SourceError if they
    cannot be found.
    """
    inputs = {tensor.name: tensor for tensor in metadata.inputs}
    optional = {tensor.name for tensor in config.input if tensor.optional} if config else set(inputs)
    if request is None:
        question = _chosen("input", PROMPTS, metadata.inputs, "request", endpoint)
        given = {name: value for name, value in INPUTS.items() if name in inputs}
        with _as_source_error(endpoint):
            request = RequestTemplate(json.dumps({question: "{prompt}"} | given), settings.given)
    text = text or _chosen("output", TEXTS, metadata.outputs, "text_path", endpoint)
    return ModelSignature(inputs, frozenset(inputs.keys() - optional), request, text)


def _chosen(kind: str, usual: Sequence[str], tensors: Iterable[Any], setting: str, endpoint: LlmEndpoint) -> str:
    """Return the name of the input for the question or the output with the answer: a usual one, else the only one for text."""
    names: list[str] = [tensor.name for tensor in tensors if tensor.datatype == "BYTES"]
    for name in usual:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    has = f"one of {', '.join(names)}" if names else "none that holds text"
    raise SourceError(f"{endpoint.who}: which {kind} is the text is not known, it has {has}", hint=f"set {setting}")


def put(model: ModelSignature, values: Mapping[str, object], request: Any, endpoint: LlmEndpoint) -> None:
    """Put values into a ModelInferRequest. Raises SourceError for an input that the model lacks, misses or cannot take."""
    if unknown := values.keys() - model.inputs.keys():
        hint = f"write request for what it has: {', '.join(model.inputs)}"
        raise SourceError(f"{endpoint.who}: it has no input {min(unknown)}", hint=hint)
    if missing := model.required - values.keys():
        hint = "set max_tokens" if "max_tokens" in min(missing) else "give it a value in request"
        raise SourceError(f"{endpoint.who}: it wants the input {min(missing)}", hint=hint)
    for name, value in values.items():
        tensor = model.inputs[name]
        request.inputs.add(name=name, datatype=tensor.datatype, shape=shape_of(tensor.shape, value))
        with _as_source_error(endpoint):
            request.raw_input_contents.append(packed(name, tensor.datatype, value))


@contextmanager
def _as_source_error(endpoint: LlmEndpoint) -> Iterator[None]:
    """Turn a ConfigError into a SourceError: only the model's metadata show that the settings do not fit."""
    try:
        yield
    except ConfigError as exc:
        raise SourceError(f"{endpoint.who}: {exc.what}", hint=exc.hint) from None
