"""Guest frames and specifications: whatever comes, in whatever pieces, is a frame of ours or a FrameError."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.protocol import HEADER, MAX_HEAD_BYTES, FrameError, FrameReader, FrameTooLarge, encode_frame
from sandbox.spec import EXEC_ENVIRONMENT_PREFIXES, FunctionSpec

LIMIT = 4096

scalars = st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=20)
heads = st.dictionaries(st.text(max_size=10), scalars | st.lists(scalars, max_size=4), max_size=6)


def feed_all(reader: FrameReader, pieces: list[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The frame, which only the last piece may complete."""
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


@given(head=heads, body=st.binary(max_size=300))
def test_what_is_encoded_is_read_back(head: dict[str, Any], body: bytes) -> None:
    assert FrameReader(LIMIT).feed(encode_frame(head, body)) == (head, body)


def test_a_frame_split_at_any_byte_is_read_once_complete() -> None:
    data = encode_frame({"op": "result", "id": "é"}, b'{"a": [1, 2]}')
    for cut in range(1, len(data)):
        assert feed_all(FrameReader(LIMIT), [data[:cut], data[cut:]]) == ({"op": "result", "id": "é"}, b'{"a": [1, 2]}'), cut


def test_a_frame_that_comes_byte_by_byte_is_read() -> None:
    data = encode_frame({"op": "result"}, b"x" * 50)
    assert feed_all(FrameReader(LIMIT), [data[i : i + 1] for i in range(len(data))]) == ({"op": "result"}, b"x" * 50)


def test_one_reader_reads_one_frame_after_the_other() -> None:
    reader = FrameReader(LIMIT)
    for number in range(3):
        assert reader.feed(encode_frame({"n": number}, b"%d" % number)) == ({"n": number}, b"%d" % number)


@given(head=heads, body=st.binary(max_size=100), left=st.data())
def test_a_truncated_frame_is_never_given_back(head: dict[str, Any], body: bytes, left: st.DataObject) -> None:
    data = encode_frame(head, body)
    assert FrameReader(LIMIT).feed(data[: left.draw(st.integers(0, len(data) - 1))]) is None


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
def test_garbage_raises_nothing_but_frame_errors(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader(LIMIT)
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    try:
        for start, end in pairwise(places):
            frame = reader.feed(data[start:end])
            assert frame is None or isinstance(frame[0], dict)
    except FrameError:
        return


@pytest.mark.parametrize("head", [b"[]", b"1", b'"op"', b"null", b"true"])
def test_a_head_that_is_no_object_is_refused(head: bytes) -> None:
    with pytest.raises(FrameError, match="not a JSON object"):
        FrameReader(LIMIT).feed(HEADER.pack(len(head), 0) + head)


@pytest.mark.parametrize("head", [b"", b"{", b"{} ,", b'{"a": NaN}', b"\xff\xfe", b'{"a": "\xed\xa0\x80"}', b"[" * 5000, b"{" * 9000])
def test_a_head_that_is_no_json_is_refused(head: bytes) -> None:
    with pytest.raises(FrameError, match="not JSON"):
        FrameReader(LIMIT).feed(HEADER.pack(len(head), 0) + head)


def test_a_head_over_its_limit_is_refused_by_the_header_alone() -> None:
    with pytest.raises(FrameError, match=f"{MAX_HEAD_BYTES + 1} bytes, limit {MAX_HEAD_BYTES}"):
        FrameReader(LIMIT).feed(HEADER.pack(MAX_HEAD_BYTES + 1, 0))


@pytest.mark.parametrize("size", [LIMIT + 1, (1 << 32) - 1])
def test_a_body_over_the_limit_is_refused_by_the_header_alone(size: int) -> None:
    with pytest.raises(FrameTooLarge, match=f"{size} bytes, limit {LIMIT}"):
        FrameReader(LIMIT).feed(HEADER.pack(2, size))


def test_a_body_of_exactly_the_limit_passes() -> None:
    assert FrameReader(LIMIT).feed(encode_frame({}, b"x" * LIMIT)) == ({}, b"x" * LIMIT)


def test_bytes_behind_a_frame_are_refused() -> None:
    with pytest.raises(FrameError, match="3 bytes behind"):
        FrameReader(LIMIT).feed(encode_frame({}, b"x") + b"abc")


# ---- specifications ----------------------------------------------------------------------------------------------


def spec(**changes: Any) -> FunctionSpec:
    given: dict[str, Any] = {
        "function_id": "f-1",
        "generation": 3,
        "name": "hello",
        "namespace": "default",
        "version": "$LATEST",
        "runtime": "Python3.6",
        "handler": "index.main",
        "code": "0123456789abcdef" * 4,
    }
    return FunctionSpec(**(given | changes))


def test_a_specification_survives_the_wire() -> None:
    whole = spec(environment={"K": "é"}, layers=("a" * 64, "b" * 64), timeout_seconds=0.5, network="none")
    assert FunctionSpec.from_json(orjson.loads(orjson.dumps(whole.to_json()))) == whole
    assert FunctionSpec.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_a_specification_without_the_optional_fields_gets_the_defaults() -> None:
    data = spec().to_json()
    for name in ("memory_mb", "tmp_mb", "environment", "layers", "network"):
        del data[name]
    assert FunctionSpec.from_json(data) == spec()


def test_an_unknown_field_of_a_specification_is_named() -> None:
    with pytest.raises(TypeError, match="'privileged'"):
        FunctionSpec.from_json(spec().to_json() | {"privileged": True})


def test_a_missing_field_of_a_specification_is_named() -> None:
    data = spec().to_json()
    del data["code"]
    with pytest.raises(TypeError, match="code"):
        FunctionSpec.from_json(data)


@pytest.mark.parametrize("prefix", EXEC_ENVIRONMENT_PREFIXES)
def test_a_variable_that_is_read_at_exec_asks_for_one(prefix: str) -> None:
    assert spec(environment={f"{prefix}X": "1"}).needs_exec


def test_ordinary_variables_need_no_exec() -> None:
    assert not spec(environment={"GOLD_": "1", "MY_PYTHON": "2"}).needs_exec
