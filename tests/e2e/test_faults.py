"""A misbehaving provider, every fault of the simulator, whole and streamed: what the client gets.

The table is the specification. `backup`: another provider answered and the client saw no error. `answer`: the
first provider's answer is usable in spite of the fault. A status: the error that the client gets. `broken`: the
stream had begun, and ends with an error event: never a truncated answer presented as success. Two endings: it
hangs on how many events the network delivered at once; both are right.
"""

import json

import aiohttp
import pytest

from llmshield.simulator import FAULTS, Simulator
from llmshield.testing import gateway

# fault: (whole, streamed)
EXPECTED: dict[str, tuple[str, str]] = {
    # the answer can't be used
    "html": ("backup", "backup"),
    "empty": ("backup", "backup"),
    "truncated_json": ("backup", "answer"),  # a stream has no one JSON text to truncate
    "malformed": ("backup", "broken|backup"),
    "gzip_garbage": ("backup", "backup"),
    "gzip_plain": ("backup", "backup"),
    "bomb": ("backup", "backup"),
    "not_http": ("backup", "backup"),
    "short_length": ("backup", "broken|backup"),
    "long_length": ("backup", "answer"),
    "two_lengths": ("backup", "backup"),
    "bad_chunk": ("backup", "broken|backup"),
    "error_in_200": ("backup", "backup"),
    "no_content": ("backup", "backup"),
    "redirect": ("backup", "backup"),
    "wrong_type": ("answer", "backup"),
    # the connection
    "drop": ("backup", "backup"),
    "reset": ("backup", "backup"),
    "refuse": ("backup", "backup"),
    "silence": ("backup", "backup"),
    "slow_head": ("backup", "backup"),
    "slow_first": ("backup", "backup"),
    "cut": ("backup", "broken|backup"),
    "fin": ("backup", "broken|backup"),
    "unfinished": ("answer", "broken|backup"),
    "cut_mid_event": ("backup", "broken|backup"),
    "cut_mid_utf8": ("backup", "broken|backup"),
    "half_close": ("backup", "broken|backup"),
    "stall": ("backup", "broken|backup"),
    # statuses
    **dict.fromkeys(("401", "402", "403", "404", "408", "409", "429"), ("backup", "backup")),
    **dict.fromkeys(("500", "502", "503", "504", "529"), ("backup", "backup")),
    **{status: (status, status) for status in ("400", "413", "422")},
    "quota": ("backup", "backup"),
    "context_length": ("backup", "backup"),
    "content_filter": ("400", "400"),
    "echo_key": ("backup", "backup"),
    # odd, and usable
    "bom": ("answer", "answer"),
    "crlf": ("answer", "answer"),
    "cr": ("answer", "answer"),
    "no_space": ("answer", "answer"),
    "multiline": ("answer", "answer"),
    "comments": ("answer", "answer"),
    "http10": ("answer", "answer"),
    "trailers": ("backup|answer", "backup|answer"),
    "unknown_event": ("answer", "answer"),
    "u2028": ("answer", "answer"),
    "filter_finish": ("answer", "answer"),
    "refusal": ("answer", "answer"),
    "no_done": ("answer", "answer"),
    "after_done": ("answer", "answer"),
    "wrong_id": ("answer", "answer"),
    **{name: ("answer", "answer") for name in FAULTS if name.startswith("usage_")},
}
# Where two endings are right, or the ending hangs on the bytes' cut, the test only asks for a clean one.
LOOSE = frozenset(
    {
        "storm_1xx",
        "drip",
        "big_head",
        "big_event",
        "endless",
        "duplicate_index",
        "out_of_order",
        "invalid_utf8",
    }
)

POLICY = """
providers:
  a: {{dialect: openai, base_url: {a}/v1, timeout: {{connect: 500ms, first_token: 700ms, idle: 400ms, total: 3s}}}}
  b: {{dialect: openai, base_url: {b}/v1}}
routes:
  - match: {{any: true}}
    to: [a, b]
    retry: {{attempts: 1}}
plugins:
  - use: failover
"""


def test_every_fault_has_an_expectation() -> None:
    assert set(FAULTS) == set(EXPECTED) | LOOSE


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_faults(primary: Simulator, backup: Simulator, streamed: bool) -> None:
    async with (
        gateway(POLICY.format(a=primary.url, b=backup.url)) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        wrong = []
        for fault in FAULTS:
            primary.reset()
            primary.set(fault=fault, pause=1.5)
            got = await _ask(http, url, streamed)
            want = EXPECTED[fault][streamed] if fault in EXPECTED else None
            if (want is not None and got not in want.split("|")) or got == "truncated":
                wrong.append(f"{fault}: expected {want}, got {got}")

        assert not wrong, "\n".join(wrong)


async def _ask(http: aiohttp.ClientSession, url: str, streamed: bool) -> str:
    body = {
        "model": "gpt-4o",
        "stream": streamed,
        "messages": [{"role": "user", "content": "one two three " * 6}],
    }
    async with http.post(f"{url}/v1/chat/completions", json=body, timeout=aiohttp.ClientTimeout(8)) as reply:
        data = (await reply.read()).decode()
        if reply.status != 200:
            assert "error" in json.loads(data)
            return str(reply.status)
        if streamed and not data.rstrip().endswith("[DONE]"):
            return "broken" if '"error"' in data.rsplit("data:", 1)[-1] else "truncated"
        return "backup" if reply.headers["x-llmshield-provider"] == "b" else "answer"
