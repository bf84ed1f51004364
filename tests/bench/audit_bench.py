"""What one record of the audit costs in CPU: all threads of the process, on one core, beside the same exchanges
without an audit.

    python tests/bench/audit_bench.py [RECORDS]

The exchange is the one of `make bench`: one attempt, eight steps of five plugins. `paced` is 2,000 calls a second,
`burst` as many as the loop can make. The figure to hold is 30 us a record (best effort); with `required: true` the
time that 64 callers wait is told as well.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from llmshield import clock
from llmshield.audit import Audit
from llmshield.call import Attempt, Finding, Reply, Usage
from llmshield.chain import Took
from llmshield.exchange import Exchange, Incoming, new_id
from llmshield.identity import Caller
from llmshield.metrics import Metrics
from llmshield.observe import Observer
from llmshield.policy.apps import Audit as Settings
from llmshield.testing import read

ROUNDS = 5
BATCH, PAUSE_S = 40, 0.02
STEPS = [
    ("rate_limit", "pre_request"), ("cost_cap", "pre_request"), ("injection", "pre_request"),
    ("pii", "pre_request"), ("failover", "choose_provider"), ("pii", "post_response"),
    ("injection", "post_response"), ("cost_cap", "attempt"),
]  # fmt: skip


async def no_body(limit: int) -> bytes:
    return b""


def exchange(*, finding: bool) -> Exchange:
    """A call that was answered, as the observer sees it."""
    now = clock.monotonic()
    incoming = Incoming("POST", b"/v1/chat/completions", b"", [], "203.0.113.7", no_body)
    x = Exchange(incoming, SimpleNamespace(started=True), new_id(), now - 0.8)  # type: ignore[arg-type]
    x.path, x.operation, x.status = "/v1/chat/completions", "generate", 200
    x.caller = Caller("acme", "pro", "0123456789abcdef", None, "203.0.113.7")
    x.call = read(
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], "user": "u-17"}
    )
    x.dialect = SimpleNamespace(name="openai_chat")  # type: ignore[assignment]
    attempt = Attempt(
        x.call, number=1, provider="openai", model="gpt-4o-mini", dialect="openai_chat", body={}
    )
    attempt.started_at, attempt.ended_at, attempt.outcome, attempt.status = now - 0.7, now, "ok", 200
    attempt.cost_picousd, attempt.prices = 214_000_000, "policy"
    x.attempts.append(attempt)
    for number, (plugin, hook) in enumerate(STEPS):
        found = (Finding("EMAIL_ADDRESS", "replace", 0.9, "/messages/0/content", 1),)
        x.trail.took.append(
            Took(plugin, hook, "redact", True, 0.0421 * number, found)
            if finding and plugin == "pii" and hook == "pre_request"
            else Took(plugin, hook, "allow", True, 0.0421 * number)
        )
    x.reply = Reply(provider="openai", model="gpt-4o-mini-2024-07-18", dialect="openai_chat", stream=False)
    x.reply.usage, x.reply.finish = Usage(input=40, output=120), "stop"
    x.first_byte_at = now - 0.05
    return x


async def run(sink: str, count: int, *, paced: bool, finding: bool) -> float:
    """CPU microseconds of the process for each exchange that is told."""
    policy = "sha256:1f3a0c9e5b7d2f4a6c8e0b1d3f5a7c9e1b3d5f7a9c1e3b5d7f9a1c3e5b7d9f1a"
    audit = Audit(Settings(sink=sink), policy)
    audit.start()
    observer = Observer(Metrics(), audit)
    begun = time.process_time()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            observer(exchange(finding=finding))
        await asyncio.sleep(PAUSE_S if paced else 0)
    audit.close()
    spent = time.process_time() - begun
    assert audit.dropped == 0
    return spent / count * 1e6


async def wait(folder: Path, count: int) -> tuple[float, float]:
    """With `required: true`: records a second, and the median wait in ms, of 64 callers."""
    audit = Audit(Settings(sink=f"file://{folder}/required.jsonl", required=True), "sha256:1f3a")
    audit.start()
    observer = Observer(Metrics(), audit)
    waits: list[float] = []

    async def caller() -> None:
        for _ in range(count // 64):
            x = exchange(finding=False)
            began = time.perf_counter()
            await observer.write(x, "answer")
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(64)))
    took = time.perf_counter() - began
    await asyncio.to_thread(audit.close)
    return len(waits) / took, median(waits) * 1000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        for name, paced, finding in [
            ("paced", True, False),
            ("paced, a finding", True, True),
            ("burst", False, False),
        ]:
            without, with_it = [], []
            for number in range(ROUNDS):
                without.append(asyncio.run(run("none", count, paced=paced, finding=finding)))
                sink = f"file://{folder}/{number}-{paced}-{finding}.jsonl"
                with_it.append(asyncio.run(run(sink, count, paced=paced, finding=finding)))
            cost = median(a - b for a, b in zip(with_it, without, strict=True))
            size = (Path(folder) / f"0-{paced}-{finding}.jsonl").stat().st_size / count
            print(
                f"{name:18} {cost:6.1f} us a record of {size:.0f} bytes (made and counted without it: {median(without):.1f} us)"
            )
        rate, ms = asyncio.run(wait(Path(folder), count))
        print(f"required: {rate:.0f} records a second with 64 callers, each waits {ms:.1f} ms (median)")


if __name__ == "__main__":
    main()
