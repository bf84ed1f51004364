"""One record per request."""

import pytest

from llmshield.simulator import Received


def made(headers=(), query="", body=b""):
    return Received(1, "POST", "/x", query, list(headers), body, 0.0)


@pytest.mark.parametrize(
    ("headers", "query", "key"),
    [
        ([("authorization", "Bearer a")], "", "a"),
        ([("x-api-key", "b"), ("authorization", "Bearer a")], "", "b"),
        ([("x-goog-api-key", "c")], "", "c"),
        ([], "key=d&x=1", "d"),
        ([], "", None),
    ],
)
def test_keys(headers, query, key):
    assert key == made(headers, query).key


@pytest.mark.parametrize(("body", "tree"), [(b"", None), (b"{", None), (b'{"a": 1}', {"a": 1})])
def test_bodies(body, tree):
    call = made(body=body)

    assert tree == call.json
    assert call.as_dict()["json"] == tree
    assert call.as_dict()["body"] == body.decode()


def test_headers_and_params():
    call = made([("a", "1"), ("a", "2")], "x=1&y=&x=2")

    assert (call.header("A"), call.header("b")) == ("1", None)
    assert call.params == {"x": "2", "y": ""}
