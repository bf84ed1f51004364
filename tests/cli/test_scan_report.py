"""The report: counts are right, nothing in it can run, and no text stands in it unless asked for."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from llmshield.cli import _scan_report
from llmshield.cli._scan_input import Item
from llmshield.cli._scan_report import Report, marked

EVIL = '<script>alert(1)</script> "ada@corp.example" \ud83d'


def verdict(*spans: tuple[int, int, str], action: str = "flag") -> dict:
    made = [{"start": start, "end": end, "type": kind, "score": 0.9} for start, end, kind in spans]
    return {
        "action": action,
        "score": 0.9 if made else 0.0,
        "spans": made,
        "families": sorted({s[2] for s in spans}),
    }


class Read(HTMLParser):
    """Tags and words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data + "|"


def test_counts_kinds_and_places() -> None:
    report = Report("pii")
    report.add(Item(1, EVIL), verdict((27, 43, "EMAIL_ADDRESS"), (0, 8, "<b>")))
    report.add(Item(2, "hello"), verdict(action="allow"))
    report.add(Item(9, "", error="no"), verdict(action="block") | {"error": "the line is not JSON"})
    page = Read(report.page())

    assert "script" not in page.tags
    assert "ada@corp.example" not in page.words
    assert "texts|3|block|1|flag|1|allow|1|not readable|1|" in page.words
    assert "EMAIL_ADDRESS| 27–43 (0.90)|<b>| 0–8 (0.90)|" in page.words
    assert "the line is not JSON" in page.words


def test_texts_stand_in_it_when_asked_for() -> None:
    report = Report("pii", texts=True)
    report.add(Item(1, EVIL), verdict((27, 43, "EMAIL_ADDRESS")))
    page = Read(report.page())

    assert "script" not in page.tags
    assert "mark" in page.tags
    assert '<script>alert(1)</script> "|ada@corp.example|" ?' in page.words


def test_spans_that_overlap_are_marked_once() -> None:
    spans = verdict((0, 4, "A"), (2, 6, "B"), (3, 4, "C"))["spans"]

    assert marked("abcdefg", spans) == '<mark title="A">abcd</mark><mark title="B">ef</mark>g'


def test_a_long_list_is_cut_and_says_so() -> None:
    report = Report("pii")
    for number in range(_scan_report.ROWS + 5):
        report.add(Item(number, "x"), verdict((0, 1, "A")))

    page = report.page()
    assert page.count('<tr><td class="n">') == _scan_report.ROWS
    assert "The first 2,000 of 2,005 texts are listed." in page


def test_as_it_is_typed(tmp_path: Path) -> None:
    """A table, two processes, a page: verdicts in order."""
    rows = "\n".join(f'"mail a{n}@corp.example",{n}' if n % 3 == 0 else f"hello {n},{n}" for n in range(200))
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "scan", "--plugin", "secrets", "--format", "csv", "--column", "body",
         "--jobs", "2", "--report", str(tmp_path / "out.html")],
        input=f"body,id\n{rows}\nkey AKIAQYLPMN5HHHFPZAM2 here,200\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    actions = [line.split('"action": "')[1].split('"')[0] for line in done.stdout.splitlines()]
    assert actions == ["allow"] * 200 + ["flag" if "flag" in actions[-1] else "block"]
    assert "texts|201|" in Read((tmp_path / "out.html").read_text()).words

    wrong = subprocess.run(
        [sys.executable, "-m", "llmshield", "scan", "--plugin", "secrets", "--format", "csv"],
        input="a,b\n1,2\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "it has: 'a', 'b'. Name one with --column." in wrong.stderr
    assert "Traceback" not in wrong.stderr
