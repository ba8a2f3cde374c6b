"""Models behind KServe v2 over gRPC: NVIDIA Triton, and servers built on it such as Numenta's NuPIC.

A model that streams is "decoupled": one request has any number of responses, each with some of the text in a tensor of BYTES.
The tensors of a model are in its metadata:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/decoupled_models.md
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import ConfigError, SourceError
from .answer import ResponseStream
from .aside import Aside
from .client import ModelClient
from .deltas import Deltas
from .events import finish_of
from .faults import failed, no_answer, of_grpc
from .kserve import ModelSignature, put, signature_of
from .model import LlmEndpoint, ModelSettings, Vendor, resolve
from .prompt import Prompt, RequestTemplate, conversation
from .reasons import NO_REASONS, reason_of
from .stream import Shape
from .tensors import texts_in

__all__ = ["TritonModel"]

VENDOR = Vendor("Triton", "http://localhost:8001", "", "api_key", "", service=False)
PORT = 8001
SERVICE = "/inference.GRPCInferenceService/"


class _Grpc(NamedTuple):
    """A connection, and the modules that its use needs, which take long to import."""

    channel: Any
    messages: Any  # the protocol's, made by protobuf
    rpc_error: Any


class TritonModel(ModelClient[_Grpc]):
    """A client of a decoupled model behind KServe v2 over gRPC.

    In `shape`, `request` has a value for each input and `text_path` names the output; "": they are found in the model's
    metadata. `cumulative` None: it is found out. Needs the extra `triton`.
    """

    def __init__(self, settings: ModelSettings, shape: Shape) -> None:
        if any(find_spec(module) is None for module in ("tritonclient", "grpc")):
            raise ConfigError("Triton's protocol is not installed", hint="pip install 'llm2ws[triton]'")
        super().__init__(settings, resolve(settings, VENDOR))
        if not self._endpoint.model:
            raise ConfigError("no model is set for Triton", hint="set model to the name of one that it has")
        self._shape = shape
        self._request = RequestTemplate(shape.request, settings.given) if shape.request else None
        self._signature: ModelSignature | None = None
        self._metadata = [(name.lower(), value) for name, value in shape.headers_with(self._endpoint.key).items()]
        try:
            self._ca = Path(settings.ca_file).read_bytes() if settings.ca_file else None
        except OSError as exc:
            hint = "give a PEM file with the authority's certificate"
            raise ConfigError(f"ca_file {settings.ca_file}: {exc.strerror}", hint=hint) from exc

    def _load(self) -> tuple[Callable[[], AbstractAsyncContextManager[_Grpc]], tuple[type[Exception], ...]]:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # It writes to standard error what is raised as well.
        import grpc
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        rpc_error = grpc.aio.AioRpcError
        return partial(self._connect, service_pb2, rpc_error), (rpc_error, DecodeError)

    @asynccontextmanager
    async def _connect(self, messages: Any, rpc_error: type[Exception]) -> AsyncIterator[_Grpc]:
        import grpc

        parts = urlsplit(self._endpoint.url)
        target = parts.netloc if parts.port else f"{parts.netloc}:{PORT}"
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", int(not self._endpoint.loopback))]
        if parts.scheme == "https":
            channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(self._ca), options)
        else:
            channel = grpc.aio.insecure_channel(target, options)
        async with channel:
            yield _Grpc(channel, messages, rpc_error)

    def _source_error(self, exc: Exception) -> SourceError:
        return of_grpc(exc, self._endpoint)

    async def _models(self) -> list[str] | None:
        await self._model()
        return await self._listed()

    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> ResponseStream:
        settings = self._settings
        model = await self._retry(self._model)
        messages = conversation(prompt, system=settings.system, template=settings.template)
        values = model.request.filled(messages, {"model": self._endpoint.model, **settings.given, **extra})
        infer = self._connection.channel.stream_stream(
            f"{SERVICE}ModelStreamInfer", request_serializer=self._connection.messages.ModelInferRequest.SerializeToString
        )
        request = self._connection.messages.ModelInferRequest(model_name=self._endpoint.model)
        put(model, values, request, self._endpoint)
        call = infer(
            [request], metadata=self._metadata
        )  # After this request, the call is half closed, and ends with the answer.
        stack.callback(call.cancel)
        deltas = Deltas(self._endpoint.who, cumulative=self._shape.cumulative)
        return ResponseStream(
            _reads(call), _InferReader(self._connection.messages.ModelStreamInferResponse, model.text, deltas, self._endpoint)
        )

    async def _call(self, method: str, **fields: object) -> Any:
        """Return the response of a call that has one."""
        request, response = (getattr(self._connection.messages, f"{method}{kind}") for kind in ("Request", "Response"))
        call = self._connection.channel.unary_unary(
            SERVICE + method, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return await call(request(**fields), metadata=self._metadata)

    async def _listed(self) -> list[str] | None:
        """Return the names of the models that are loaded, None if the server has no list."""
        try:
            index = await self._call("RepositoryIndex")
        except self._connection.rpc_error as exc:
            if exc.code().name != "UNIMPLEMENTED":  # It is an extension of Triton's.
                raise
            return None
        return [model.name for model in index.models if model.state in ("", "READY")]

    async def _model(self) -> ModelSignature:
        """Return the model's signature, asked for once. Raises SourceError for a model that cannot be used."""
        if self._signature is None:
            self._signature = await self._described()
        return self._signature

    async def _described(self) -> ModelSignature:
        who, name = self._endpoint.who, self._endpoint.model
        try:
            metadata = await self._call("ModelMetadata", name=name)
        except self._connection.rpc_error as exc:
            # Triton reports a missing model with NOT_FOUND, INVALID_ARGUMENT or UNAVAILABLE.
            if exc.code().name == "UNAUTHENTICATED" or not (listed := await self._listed()) or name in listed:
                raise
            raise SourceError(f"{who}: it has no such model", hint=f"it has {', '.join(listed[:5])}") from None
        try:
            config = (await self._call("ModelConfig", name=name)).config
        except self._connection.rpc_error as exc:
            if exc.code().name != "UNIMPLEMENTED":  # It is an extension too.
                raise
            config = None
        # An ensemble streams if one of its models does, whatever its own policy says.
        if config and not config.model_transaction_policy.decoupled and not config.HasField("ensemble_scheduling"):
            streaming = [
                other for other in await self._listed() or () if other.startswith(name) and "stream" in other[len(name) :]
            ]
            hint = f"set model to {streaming[0]}" if streaming else "set model to a decoupled one"
            raise SourceError(f"{who}: it does not stream", hint=hint)
        return signature_of(metadata, config, self._request, self._shape.text_path, self._settings, self._endpoint)


async def _reads(call: Any) -> AsyncGenerator[bytes, None]:
    # gRPC does not close its generator: the garbage collector would, in a task that nobody waits for.
    async with aclosing(aiter(call)) as messages:
        async for message in messages:
            if message:  # For `ask`, b"" is the end.
                yield message


class _InferReader:
    """A reader of one answer. Its end is the status of the call, which gRPC raises."""

    def __init__(self, message: Any, output: str, deltas: Deltas, endpoint: LlmEndpoint) -> None:
        self.started = False
        self.complete = False
        self._parse = message.FromString
        self._output = output
        self._deltas = deltas
        self._endpoint = endpoint
        self._reason = "stop"
        self._is_recognised: bool | None = None  # An output had the text; False: there were only other outputs.

    def feed(self, data: bytes) -> Iterator[str | Aside]:
        if data:
            message = self._parse(data)
            if message.error_message:
                yield from self._rest()
                raise failed(self._endpoint, message.error_message)
            response = message.infer_response
            self.started = True
            # Triton's mark for the last response, which may hold nothing else.
            self.complete = response.parameters["triton_final_response"].bool_param
            texts = _outputs(response)
            if (reason := texts.get("finish_reason", "")).lower() not in NO_REASONS:
                self._reason = reason_of(reason)
            if response.outputs:
                self._is_recognised = self._is_recognised or self._output in texts
            if text := self._deltas.feed(texts.get(self._output, "")):
                yield text
        if self.complete or not data:
            yield from self._rest()

    def _rest(self) -> Iterator[str]:
        if rest := self._deltas.finish():
            yield rest

    def end(self) -> Aside:
        if not self.started:
            raise no_answer(self._endpoint, "nothing")
        is_recognised = self._is_recognised is not False
        return finish_of(self._endpoint, self._reason, None, is_recognised=is_recognised, hint="check the setting text_path")


def _outputs(response: Any) -> dict[str, str]:
    """Return the first text in each output of texts, by the output's name."""
    raw = response.raw_output_contents
    found = {}
    for index, output in enumerate(response.outputs):
        if output.datatype == "BYTES":
            listed = [text.decode(errors="replace") for text in output.contents.bytes_contents]
            texts = texts_in(raw[index]) if index < len(raw) else listed
            found[output.name] = texts[0] if texts else ""
    return found
