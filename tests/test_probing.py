"""What a probe makes of odd answers; that it works end to end is tests/admin/endpoints/test_probes.py."""

from typing import Any

import pytest

from llmshield.errors import UpstreamError
from llmshield.probing import _count


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"data": [{}, {}]}', 2),
        (b'{"models": [{}]}', 1),
        (b'{"data": []}', 0),
        (b'{"data": {}}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_lists_of_models(body: bytes, count: Any) -> None:
    if count is not None:
        assert count == _count(body)
        return
    with pytest.raises(UpstreamError, match="no list"):
        _count(body)
