"""Values to bytes and back, beside what the official client makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from llm2ws.errors import ConfigError
from llm2ws.sources.tensors import packed, shape_of, texts_in


@given(st.lists(st.text()))
def test_texts_are_those_of_the_official_client(texts: list[str]) -> None:
    contents = packed("text_input", "BYTES", texts)

    assert contents == (serialize_byte_tensor(np.array(texts, dtype=np.object_)).item() if texts else b"")
    assert [text.decode() for text in deserialize_bytes_tensor(contents)] == texts == texts_in(contents)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("BOOL", True), ("INT32", -7), ("UINT8", [1, 2]), ("INT64", 2**40), ("FP32", 0.5), ("FP64", [0.1, 0.2])],
)
def test_numbers_are_those_of_the_official_client(datatype: str, value: object) -> None:
    assert packed("x", datatype, value) == np.array(value, dtype=triton_to_np_dtype(datatype)).tobytes()


def test_what_is_no_text_is_given_as_json() -> None:
    assert texts_in(packed("sampling_parameters", "BYTES", {"temperature": 0.5})) == ['{"temperature": 0.5}']


@pytest.mark.parametrize(
    ("datatype", "value", "line"),
    [
        ("INT32", "many", "the input x is INT32, and its value is not"),
        ("UINT8", 300, "the input x is UINT8, and its value is not"),
        ("FP32", 1e300, "the input x is FP32, and its value is not"),
        ("BF16", 1, "the input x is BF16, which is not known here"),
    ],
)
def test_what_an_input_cannot_hold(datatype: str, value: object, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        packed("x", datatype, value)


@given(st.binary(max_size=40))
def test_what_no_server_should_send_is_read_without_failing(contents: bytes) -> None:
    assert all(isinstance(text, str) for text in texts_in(contents))


def test_shapes() -> None:
    assert shape_of([1], "Why?") == [1]
    assert shape_of([-1, 1], "Why?") == [1, 1]  # the first is the batch
    assert shape_of([-1, -1], ["END", "STOP"]) == [1, 2]
    assert shape_of([], 7) == [1]
