"""What a request says is read exactly, and every value that is not as expected is told at once, never in full."""

import contextlib
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, StringConstraints

from llmshield.admin.problems import Problem
from llmshield.admin.reading import read_body, read_path, read_query
from llmshield.admin.shapes import Length, Query, Shape

CANARY = "sk-CANARY0123456789abcdefgh"


class Inner(Shape):
    total: Length | None = None


class Wanted(Shape):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    count: int = Field(default=1, ge=1, le=9)
    api_key: Annotated[str, StringConstraints(min_length=40)] | None = None
    inner: Inner = Inner()


class Asked(Query):
    name: str
    count: int = 1


BODIES = [
    (b"", "bad_request", ""),
    (b"[]", "bad_request", ""),
    (b"{", "bad_request", ""),
    (b'{"name": "a", "count": NaN}', "bad_request", ""),
    (b'\xff{"name": "a"}', "bad_request", ""),
    (b'{"a":' * 20 + b"1" + b"}" * 20, "bad_request", ""),
    (b"{}", "invalid", "name"),
    (b'{"name": 5}', "invalid", "name"),
    (b'{"name": "A"}', "invalid", "name"),
    (b'{"name": "a", "count": "1"}', "invalid", "count"),
    (b'{"name": "a", "count": 1.0}', "invalid", "count"),
    (b'{"name": "a", "count": true}', "invalid", "count"),
    (b'{"name": "a", "count": 10}', "invalid", "count"),
    (b'{"name": "a", "nmae": 1}', "invalid", "nmae"),
    (b'{"name": "a", "inner": {"total": "5"}}', "invalid", "inner.total"),
    (b'{"name": "a", "inner": {"total": "30s", "x": 1}}', "invalid", "inner.x"),
    (b'{"name": "a", "api_key": "' + CANARY.encode() + b'"}', "invalid", "api_key"),
    (b'{"name": "' + CANARY.encode() + b'"}', "invalid", "name"),
]


@pytest.mark.parametrize(("data", "code", "at"), BODIES)
def test_bodies_that_are_refused(data: bytes, code: str, at: str) -> None:
    with pytest.raises(Problem) as refused:
        read_body(Wanted, data)

    assert code == refused.value.code
    assert [at] == [flaw.at for flaw in refused.value.errors] if at else not refused.value.errors
    assert CANARY.encode() not in refused.value.body()


def test_a_good_body() -> None:
    made = read_body(Wanted, b'{"name": "a", "inner": {"total": "1.5s"}}')

    assert ("a", 1, 1.5) == (made.name, made.count, made.inner.total)


def test_every_flaw_is_told() -> None:
    with pytest.raises(Problem) as refused:
        read_body(Wanted, b'{"name": 1, "count": 0, "inner": 5, "more": 1}')

    assert {"name", "count", "inner", "more"} == {flaw.at for flaw in refused.value.errors}
    assert all(flaw.message.startswith("found ") for flaw in refused.value.errors)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("name=a", None),
        ("name=a&count=7", None),
        ("name=%C3%A4", None),
        ("name=", None),
        ("", "invalid"),
        ("name=a&name=b", "invalid"),
        ("name=a&count=x", "invalid"),
        ("name=a&more=1", "invalid"),
        ("name", "bad_request"),
        ("name=%FF", "bad_request"),
        ("&".join(f"n{each}=1" for each in range(100)), "bad_request"),
    ],
)
def test_queries(query: str, code: str | None) -> None:
    if code is None:
        assert isinstance(read_query(Asked, query), Asked)
        return
    with pytest.raises(Problem) as refused:
        read_query(Asked, query)

    assert code == refused.value.code


@given(st.binary(max_size=200), st.text(max_size=100), st.dictionaries(st.text(), st.text(), max_size=3))
def test_whatever_comes_is_read_or_refused(data: bytes, query: str, names: dict[str, str]) -> None:
    reads: list[Any] = [
        lambda: read_body(Wanted, data),
        lambda: read_query(Asked, query),
        lambda: read_path(Asked, names),
    ]
    for read in reads:
        with contextlib.suppress(Problem):
            read()
