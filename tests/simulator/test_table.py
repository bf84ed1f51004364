"""The fault table is complete: every fault does something, and says what."""

import pytest

from llmshield.simulator.provider import Provider
from llmshield.simulator.table import FAULTS, names

WANTED = [
    "400",
    "401",
    "403",
    "404",
    "408",
    "409",
    "413",
    "422",
    "429",
    "500",
    "502",
    "503",
    "504",
    "529",
    "refuse",
    "drop",
    "reset",
    "silence",
    "html",
    "empty",
    "truncated_json",
    "short_length",
    "long_length",
    "wrong_type",
    "gzip_garbage",
    "bomb",
    "slow_first",
    "drip",
    "stall",
    "cut",
    "fin",
    "malformed",
    "invalid_utf8",
    "bom",
    "crlf",
    "cr",
    "no_space",
    "multiline",
    "comments",
    "no_done",
    "after_done",
    "error_in_200",
    "duplicate_index",
    "out_of_order",
    "big_event",
    "unknown_event",
    "usage_twice",
    "usage_x10",
    "usage_negative",
    "usage_string",
    "usage_null",
    "usage_nan",
    "usage_missing",
    "usage_huge",
    "endless",
    "context_length",
    "content_filter",
    "filter_finish",
    "redirect",
    "no_content",
    "storm_1xx",
    "http10",
    "trailers",
    "half_close",
    "unfinished",
    "cut_mid_event",
    "cut_mid_utf8",
    "wrong_id",
    "u2028",
]


@pytest.mark.parametrize("name", WANTED)
def test_wanted(name):
    assert name in names()


@pytest.mark.parametrize("name", sorted(names()))
def test_every_row_has_a_stage_and_a_sentence(name):
    fault = FAULTS[name]

    assert fault.doc
    assert any((fault.before, fault.answer, fault.tree, fault.events, fault.style, fault.plan))
    assert Provider(fault=name).options()["fault"] == (name,)
