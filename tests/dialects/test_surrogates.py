"""Halves of characters, in trees and over the events of a stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.call import Channel
from llmshield.dialects import Piece
from llmshield.dialects._surrogates import Halves, mend_tree, whole_characters

CONTENT = Channel("content")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain", "plain"),
        ("é😀", "é😀"),
        ("\ud83d\ude00", "😀"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
def test_halves_are_joined_or_replaced(text, whole):
    assert whole_characters(text) == whole
    assert mend_tree({text: [text, 1, None]}) == {whole: [whole, 1, None]}


@given(text=st.text(st.sampled_from("a😀é𝒳"), max_size=9), cuts=st.lists(st.integers(0, 20)))
def test_a_stream_cut_between_halves_says_the_same(text, cuts):
    data = text.encode("utf-16-le")
    edges = [0, *sorted(2 * (cut % (len(data) // 2 + 1)) for cut in cuts), len(data)]
    halves = Halves()
    said = ""
    for a, b in itertools.pairwise(edges):
        holder = {"content": data[a:b].decode("utf-16-le", "surrogatepass")}
        halves.mend([Piece(CONTENT, holder, "content")])
        holder["content"].encode()
        said += holder["content"]

    assert said == text


def test_a_text_that_arrives_whole_waits_for_nothing():
    halves = Halves()
    holder = {"text": "a\ud83d", "n": 5}
    halves.mend([Piece(CONTENT, holder, "text", whole=True), Piece(CONTENT, holder, "n", whole=True)])

    assert holder == {"text": "a\ufffd", "n": 5}
