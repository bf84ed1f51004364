"""JSON in pieces: any document, any cuts, every leaf through its pipe."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.json_pieces import NAME, JsonPieces

DEEP = settings(max_examples=400, deadline=None)


class Same:
    """Changes nothing and holds nothing."""

    def feed(self, text: str) -> str:
        return text

    def flush(self) -> str:
        return ""


class Holds(Same):
    """Gives everything out at the end only."""

    def __init__(self) -> None:
        self.kept = ""

    def feed(self, text: str) -> str:
        self.kept += text
        return ""

    def flush(self) -> str:
        kept, self.kept = self.kept, ""
        return kept


class Replaces(Same):
    """Puts `new` for `old`, holding back what may become `old`."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new, self.kept = old, new, ""

    def feed(self, text: str) -> str:
        self.kept += text
        out = ""
        while (place := self.kept.find(self.old)) >= 0:
            out += self.kept[:place] + self.new
            self.kept = self.kept[place + len(self.old) :]
        hold = next(n for n in range(len(self.old), -1, -1) if self.kept.endswith(self.old[:n]))
        out += self.kept[: len(self.kept) - hold]
        self.kept = self.kept[len(self.kept) - hold :]
        return out

    def flush(self) -> str:
        kept, self.kept = self.kept, ""
        return kept


class Records(Same):
    """Remembers what each path was fed."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str | int, ...], str] = {}

    def open(self, path: tuple[str | int, ...]) -> _Ear:
        return _Ear(self.seen, path)


class _Ear(Same):
    def __init__(self, seen: dict[tuple[str | int, ...], str], path: tuple[str | int, ...]) -> None:
        self.seen, self.path = seen, path
        seen.setdefault(path, "")

    def feed(self, text: str) -> str:
        self.seen[self.path] += text
        return text


def run(text: str, cuts: list[int], make) -> str:
    pieces = JsonPieces(make)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    out = [pieces.feed(text[a:b]) for a, b in itertools.pairwise(edges)]
    return "".join(out) + pieces.flush()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["secret", "a secret b", "secsecretret", "s", "\ud83d", "\ude00 \ud83d", '"\\/', "é\u2028😀"]
    )
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["secret", "my secret"]), inner, max_size=4)
    ),
    max_leaves=12,
)
SPELLINGS = st.sampled_from(
    [
        {"ensure_ascii": True},
        {"ensure_ascii": True, "separators": (",", ":")},
        {"ensure_ascii": True, "indent": 2},
        {"ensure_ascii": True, "separators": (" ,\t", "\n:\r\n")},
        {"ensure_ascii": False},
    ]
)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@DEEP
@given(tree=TREES, spelling=SPELLINGS, cuts=CUTS, held=st.booleans())
def test_what_no_pipe_changes_comes_out_as_it_came_in(tree, spelling, cuts, held):
    text = json.dumps(tree, **spelling)

    assert text == run(text, cuts, lambda path: Holds() if held else Same())
    assert text == run(text, list(range(len(text))), lambda path: Same())
    assert text == run(text, cuts, lambda path: None)


@DEEP
@given(tree=TREES, spelling=SPELLINGS, cuts=CUTS, old=st.sampled_from(["secret", "7", "1.", "é"]))
def test_the_result_is_the_document_with_filtered_leaves(tree, spelling, cuts, old):
    text = json.dumps(tree, **spelling)

    def expected(node):
        if isinstance(node, list) and node and isinstance(node[0], tuple):
            return [(fixed(name).replace(old, "N/A"), expected(value)) for name, value in node]
        if isinstance(node, list):
            return [expected(value) for value in node]
        if isinstance(node, str):
            return fixed(node).replace(old, "N/A")
        if isinstance(node, bool) or node is None:
            return node
        number = json.dumps(node)
        return number.replace(old, "N/A") if old in number else node

    def fixed(value: str) -> str:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if old in value else value

    result = run(text, cuts, lambda path: Replaces(old, "N/A"))
    wanted = expected(json.loads(text, object_pairs_hook=list))
    got = json.loads(result, object_pairs_hook=list)

    assert wanted == got


@DEEP
@given(text=st.text(alphabet='{}[]",:\\u0123deEtrufalsn \n-+.xé', max_size=40), cuts=CUTS)
def test_text_that_is_no_json_passes_whole_and_in_order(text, cuts):
    """Whatever the text is, a pipe that changes nothing loses nothing."""
    assert text == run(text, cuts, lambda path: Same())
    assert text == run(text, cuts, lambda path: Holds())


@DEEP
@given(text=st.text(alphabet='{}[]",:\\u0123 \nab', max_size=40), cuts=CUTS)
def test_cuts_make_no_difference_to_what_the_pipes_hear(text, cuts):
    whole, cut = Records(), Records()
    run(text, [], whole.open)
    run(text, cuts, cut.open)

    assert whole.seen == cut.seen


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ('{"a":"x"}', {("~",): "a", ("a",): "x"}),
        (
            '{"a":[1,"y",{"b":2.5e3}]}',
            {(NAME,): "a", ("a", 0): "1", ("a", 1): "y", ("a", 2, NAME): "b", ("a", 2, "b"): "2.5e3"},
        ),
        ('"\\u00e9\\ud83d\\ude00"', {(): "é😀"}),
        ('"\\ud83dx\\ude00"', {(): "\ufffdx\ufffd"}),
        ('"\\ud83d\\ud83d\\ude00"', {(): "\ufffd😀"}),
        ('"\\ud83d\\n"', {(): "\ufffd\n"}),
        ("[true,false,null]", {(0,): "true", (1,): "false", (2,): "null"}),
        ("-0.5", {(): "-0.5"}),
        ('{"a":"half', {(NAME,): "a", ("a",): "half"}),
        ('{"a":12', {(NAME,): "a", ("a",): "12"}),
        ("print('x')", {(): "print('x')"}),
        ('{"a":1}{"b":2}', {(NAME,): "a", ("a",): "1", (): '{"b":2}'}),
        ('{"a":"x\\q secret"}', {(NAME,): "a", ("a",): "x", (): '\\q secret"}'}),
        ('{"a":01}', {(NAME,): "a", (): "01}"}),
        ('{"a":NaN}', {(NAME,): "a", (): "NaN}"}),
        ("[1,]", {(0,): "1", (): "]"}),
        ("{1:2}", {(): "1:2}"}),
        ('"raw\nbreak"', {(): "raw\nbreak"}),
    ],
)
def test_what_each_pipe_hears(text, heard):
    for cuts in ([], list(range(len(text)))):
        record = Records()
        out = run(text, cuts, record.open)

        assert heard == record.seen
        assert text == out


def test_a_changed_number_becomes_a_string():
    out = run(
        '{"card": 4111111111111111, "n": 7}', [12, 15], lambda path: Replaces("4111111111111111", "<CARD_1>")
    )

    assert out == '{"card": "<CARD_1>", "n": 7}'


def test_what_a_pipe_puts_in_is_escaped():
    out = run('["secret"]', [3], lambda path: Replaces("secret", 'say "hi"\n\\'))

    assert json.loads(out) == ['say "hi"\n\\']


def test_a_name_is_filtered_and_later_paths_carry_what_the_provider_wrote():
    record = Records()

    def make(path):
        record.open(path)
        return Replaces("secret", "NAME") if path == (NAME,) else None

    assert run('{"a secret":{"b":1}}', [4], make) == '{"a NAME":{"b":1}}'
    assert ("a secret", "b") in record.seen


def test_the_spelling_of_escapes_survives_a_pipe_that_holds_back():
    text = '{"a":"\\u0041\\/\\u00e9b\\ud83d\\ude00\\n"}'

    assert run(text, [9, 11, 20, 33], lambda path: Replaces("never", "")) == text


def test_an_unfinished_value_is_never_passed_by_the_filter():
    for text in (
        '{"a": "secret',
        '{"a": "\\u0073ecret',
        '["secret\\u00',
        "secret",
        '{"a":1} secret',
        '{"a":"\\x secret',
    ):
        for cut in range(len(text)):
            assert "secret" not in run(text, [cut], lambda path: Replaces("secret", "-")), (text, cut)


def test_depth_and_long_numbers_are_bounded():
    record = Records()
    run("[" * 300 + "1", [], record.open)
    run("1" * 2000, list(range(0, 2000, 7)), record.open)

    assert max(map(len, record.seen)) <= 256
    assert record.seen[()].count("1") == 2001


def test_time_is_linear():
    def seconds(text: str) -> float:
        best = 9.0
        for _ in range(5):
            begin = time.process_time()
            run(text, list(range(0, len(text), 7)), lambda path: Same())
            best = min(best, time.process_time() - begin)
        return best

    for unit in ('"aaaa\\n",', "[1,2],", '"\\ud83d\\ude00\\u00e9",', '"' + "x" * 50 + '",'):
        small = "[" + unit * 500
        large = "[" + unit * 4000

        assert seconds(large) < 8 * 2.5 * seconds(small) + 0.02
