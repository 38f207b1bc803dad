"""JSON that somebody sent."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.json_body import MOST_VALUES, load_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(VALUES)
def test_what_requests_hold_is_read_as_json_reads_it(value: object) -> None:
    text = json.dumps(value).encode()
    assert load_json(text) == json.loads(text)


def test_a_film_of_any_size_is_one_value() -> None:
    film = base64.b64encode(bytes(range(256)) * 20_000).decode()
    assert load_json(json.dumps({"image": film}).encode()) == {"image": film}


@pytest.mark.parametrize("part", [b"[],", b'"a",', b"{}", b"[", b'{"a":[', b"1,"])
def test_what_would_grow_is_refused_before_it_does(part: bytes) -> None:
    body = b'{"findings": [' + part * (4_000_000 // len(part)) + b"]}"
    tracemalloc.start()
    with pytest.raises(ImageError, match=f"over {MOST_VALUES} values") as caught:
        load_json(body)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
