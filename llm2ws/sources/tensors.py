"""Tensors of the KServe v2 protocol: values to bytes and bytes to texts, in the form of Triton's "raw contents".

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from ..errors import ConfigError

__all__ = ["packed", "shape_of", "texts_in"]

_FORMATS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}


def packed(name: str, datatype: str, value: object) -> bytes:
    """Return a value, or a list of them, as the contents of an input. Raises ConfigError for a value of another type."""
    values = value if isinstance(value, list) else [value]
    if datatype == "BYTES":
        texts = [item if isinstance(item, str) else json.dumps(item) for item in values]
        return b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
    if datatype not in _FORMATS:
        raise ConfigError(f"request: the input {name} is {datatype}, which is not known here", hint="leave it out")
    try:
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    except (struct.error, OverflowError):
        pass
    raise ConfigError(f"request: the input {name} is {datatype}, and its value is not", hint="give a value of that type")


def shape_of(shape: Sequence[int], value: object) -> list[int]:
    """Return the shape of an input for a value or a list. `shape`: that of the model's metadata, with -1 for any length."""
    wanted = [1 if length < 0 else length for length in shape] or [1]
    if isinstance(value, list):
        wanted[-1] = len(value)
    return wanted


def texts_in(contents: bytes) -> list[str]:
    """Return the elements of an output of BYTES. An incomplete one at the end is left out."""
    texts = []
    at = 0
    while at + 4 <= len(contents):
        (length,) = struct.unpack_from("<I", contents, at)
        texts.append(contents[at + 4 : at + 4 + length].decode(errors="replace"))
        at += 4 + length
    return texts
