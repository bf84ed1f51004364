"""Arrays of JSON objects read as they come, as Gemini streams them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.dialects._json_array import JsonArrayParser


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=4), st.text(max_size=6) | st.lists(st.text(max_size=4), max_size=3), max_size=3
        ),
        max_size=4,
    ),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_arrays_of_any_objects_in_any_pieces(elements: list[Any], data: st.DataObject) -> None:
    raw = json.dumps(elements, ensure_ascii=data.draw(st.booleans())).encode()
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=8))
    parser = JsonArrayParser()
    found = [
        one for a, b in itertools.pairwise([0, *sorted(cuts), len(raw)]) for one in parser.feed(raw[a:b])
    ]

    assert [json.loads(one) for one in found] == elements
    assert (parser.closed, parser.error) == (True, None)


def test_an_endless_element_is_refused() -> None:
    parser = JsonArrayParser(limit=1000)
    parser.feed(b'[{"a":"')
    parser.feed(b"x" * 2000)

    assert parser.error is not None
    assert parser.feed(b'"}]') == []
