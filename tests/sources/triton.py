"""A server of NVIDIA's published service definition, over real gRPC.

https://github.com/triton-inference-server/common/tree/main/protobuf

What it says of its models, and how it streams, is what the official client (`tritonclient`) reads from a Triton: the tests have
that client look first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import aio as tritonclient
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from llm2ws.sources.tensors import packed, texts_in

__all__ = ["HOLD", "VLLM", "Abort", "Failure", "Final", "Model", "Step", "Tensor", "Triton", "sdk_text", "triton"]

grpc.aio.init_grpc_aio()  # its pair of sockets to wake itself up: there from the start, it is none that a test leaves behind

HOLD = "hold"  # nothing more, until the client leaves


class Tensor(NamedTuple):
    """`required`: inputs only."""

    name: str
    datatype: str = "BYTES"
    shape: Sequence[int] = (1,)
    required: bool = True


class Failure(NamedTuple):
    """An error within the stream, which goes on."""

    message: str


class Final(NamedTuple):
    """A response that is marked as the last, with the reason."""

    reason: str


class Abort(NamedTuple):
    """The end of the call. `ended`: with a status of success."""

    code: grpc.StatusCode
    details: str = ""


Step = str | Failure | Final | Abort


@dataclass(frozen=True, slots=True)
class Model:
    """`steps`: texts, one a response, and what else comes. `kind`: of a backend."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    steps: Sequence[Step] = ()
    decoupled: bool = True
    ensemble: bool = False
    raw: bool = True  # contents as bytes, as Triton sends them; else as typed fields, as the definition allows


# As the vLLM backend declares them: https://github.com/triton-inference-server/vllm_backend
VLLM = Model(
    inputs=(
        Tensor("text_input"),
        Tensor("stream", "BOOL", required=False),
        Tensor("sampling_parameters", required=False),
        Tensor("exclude_input_in_output", "BOOL", required=False),
        Tensor("return_finish_reason", "BOOL", required=False),
    ),
    outputs=(Tensor("text_output", shape=(-1,)), Tensor("finish_reason", shape=(-1,))),
)
_TYPES = {"BYTES": "STRING"}


@dataclass
class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`models` by name. `key`: what clients must present as metadata. `unimplemented`: extensions that it does not have."""

    models: Mapping[str, Model]
    key: str = ""
    unimplemented: Sequence[str] = ()
    unavailable: int = 0  # so many calls for metadata are refused
    url: str = ""
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    holding: asyncio.Event = field(default_factory=asyncio.Event)

    async def _begin(self, method: str, context: Any, name: str | None = None) -> Any:
        self.calls.append(method)
        self.metadata.append(dict(context.invocation_metadata()))
        presented = self.metadata[-1].get("authorization")
        if self.key and presented != f"Bearer {self.key}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"the key {presented} is wrong")
        if method in self.unimplemented:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if name is not None and name not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return self.models.get(name or "")

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the definition's names
        await self._begin("ServerLive", context)
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._begin("ModelReady", context)
        return service_pb2.ModelReadyResponse(ready=request.name in self.models)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = await self._begin("ModelMetadata", context, request.name)
        if self.unavailable:
            self.unavailable -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Server is not ready")
        kind = service_pb2.ModelMetadataResponse.TensorMetadata
        described = [
            [kind(name=one.name, datatype=one.datatype, shape=one.shape) for one in tensors]
            for tensors in (model.inputs, model.outputs)
        ]
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"], inputs=described[0], outputs=described[1])

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = await self._begin("ModelConfig", context, request.name)
        config = model_config_pb2.ModelConfig(name=request.name)
        config.model_transaction_policy.decoupled = model.decoupled
        if model.ensemble:
            config.ensemble_scheduling.step.add(model_name="inner")
        for one in model.inputs:
            type_name = f"TYPE_{_TYPES.get(one.datatype, one.datatype)}"
            config.input.add(name=one.name, data_type=type_name, dims=one.shape, optional=not one.required)
        return service_pb2.ModelConfigResponse(config=config)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._begin("RepositoryIndex", context)
        kind = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(
            models=[kind(name=name, version="1", state="READY") for name in self.models]
            + [kind(name="broken", state="UNAVAILABLE")]
        )

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async with aclosing(aiter(requests)) as received:  # gRPC leaves that to the garbage collector
            async for request in received:
                model = await self._begin("ModelStreamInfer", context, request.model_name)
                self.requests.append(request)
                for step in model.steps:
                    match step:
                        case Failure(message=message):
                            yield service_pb2.ModelStreamInferResponse(error_message=message)
                        case Abort(code=code, details=details):
                            await context.abort(code, details)
                        case str() if step is HOLD:
                            self.holding.set()
                            try:
                                await asyncio.Event().wait()
                            except asyncio.CancelledError:
                                self.left.set()
                                raise
                        case _:
                            yield self._response(model, request.model_name, step)

    def _response(self, model: Model, name: str, step: str | Final | Any) -> Any:
        response = service_pb2.ModelInferResponse(model_name=name, model_version="1")
        values = {model.outputs[0].name: step if isinstance(step, str) else ""}
        if isinstance(step, Final):
            values["finish_reason"] = step.reason
            response.parameters["triton_final_response"].bool_param = True
        for output, text in values.items():
            tensor = response.outputs.add(name=output, datatype="BYTES", shape=[1])
            if model.raw:
                response.raw_output_contents.append(packed(output, "BYTES", text))
            else:
                tensor.contents.bytes_contents.append(text.encode())
        return service_pb2.ModelStreamInferResponse(infer_response=response)

    def inputs(self, index: int = -1) -> dict[str, Any]:
        """Return what a request gave each input: texts, else bytes."""
        request = self.requests[index]
        contents = zip(request.inputs, request.raw_input_contents, strict=True)
        return {one.name: texts_in(raw)[0] if one.datatype == "BYTES" else raw for one, raw in contents}


@asynccontextmanager
async def triton(server: Triton, credentials: Any = None) -> AsyncIterator[Triton]:
    """Serve on a free port; `server.url` is the address. `credentials`: for TLS."""
    rpc = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, rpc)
    if credentials is None:
        server.url = f"http://127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    else:
        server.url = f"https://localhost:{rpc.add_secure_port('127.0.0.1:0', credentials)}"
    await rpc.start()
    try:
        yield server
    finally:
        await rpc.stop(None)


async def sdk_text(url: str, name: str, prompt: str = "Why?") -> str:
    """Return the text of a model's answer by the official client."""
    text = ""
    async with tritonclient.InferenceServerClient(url.partition("://")[2]) as client:
        inputs = []
        for one in (await client.get_model_metadata(name)).inputs:
            if one.datatype == "BYTES" and not text:
                tensor = tritonclient.InferInput(one.name, [1], "BYTES")
                tensor.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_))
                inputs.append(tensor)
                break

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": name, "inputs": inputs}

        async for result, error in client.stream_infer(requests()):
            if error is not None:
                raise error
            text += result.as_numpy("text_output")[0].decode()
    return text
