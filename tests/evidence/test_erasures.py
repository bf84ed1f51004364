"""What was known when; and the marks beside the people of a log."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.evidence._marks import Marks
from llmshield.evidence.erasures import Erasures
from llmshield.testing import FrozenClock


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40), st.integers(0, 250))
def test_known_at_is_the_last_answer_before(steps, ago):
    with FrozenClock() as clock:
        erasures, count, told = Erasures(), 0, []
        for seconds, more in steps:
            clock.advance(seconds)
            count += more
            changed = erasures.note(count)
            assert changed == (not told or more > 0)
            told.append((clock.monotonic(), count))
        when = clock.monotonic() - ago
        expected = [count for at, count in told if at <= when]

        assert erasures.known_at(when) == (expected[-1] if expected else -1)
        assert erasures.count == count


def test_what_is_long_ago_is_not_known():
    with FrozenClock() as clock:
        erasures = Erasures()
        for count in range(1100):
            erasures.note(count)
            clock.advance(1)
        assert erasures.known_at(clock.monotonic() - 1099) == -1
        assert erasures.known_at(clock.monotonic() - 1) == 1099


def test_erasures_of_many_processes_are_all_counted(tmp_path):
    program = (
        "import sys; from pathlib import Path; from llmshield.evidence._marks import Marks\n"
        "for _ in range(50): Marks(Path(sys.argv[1])).count_erasure()"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "p")]) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4

    assert Marks(tmp_path / "p").erasures() == 200


def test_keys(tmp_path):
    marks = Marks(tmp_path / "p")
    assert (marks.erasures(), marks.keys()) == (0, None)
    marks.note_key("aa")
    marks.note_key("bb")
    marks.note_key("aa")
    Marks(tmp_path / "p").note_key("aa")
    assert marks.keys() == {"aa", "bb"}
    assert (tmp_path / "p" / "keys").read_text() == "aa\nbb\n"
    marks.replace_keys({"cc"})
    assert Marks(tmp_path / "p").keys() == {"cc"}
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["keys"]
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "p" / "keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", ["", "\n\n", "aa\nb"])
def test_a_torn_list_names_keys_that_are_not_there(tmp_path, left):
    (tmp_path / "keys").write_text(left)
    assert Marks(tmp_path).keys() == set(left.split())
