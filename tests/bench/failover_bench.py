"""What it costs a caller that the first provider fails before its first byte.

    python tests/bench/failover_bench.py [--calls N]

A chain of two simulated providers, the first of which answers 503 at once, against a route to the second alone, in
alternation. What is printed is the difference as the caller sees it, less the time of the failed attempt itself: the same
question asked of the failing provider by the same client. Goal: 5 ms. Everything runs in one process, so the CPU time of
both simulators is in it.
"""

import argparse
import asyncio
import contextlib
import io
import statistics
import time
import warnings

import aiohttp

from llmshield.simulator import Simulator
from llmshield.testing import gateway

GOAL_MS = 5.0
POLICY = """
providers:
  down: {{dialect: openai, base_url: {down}/v1, prices: {{input: 1, output: 2}}}}
  same: {{dialect: openai, base_url: {up}/v1, prices: {{input: 1, output: 2}}}}
  other: {{dialect: anthropic, base_url: {up}, prices: {{input: 1, output: 2}}}}
routes:
  - {{match: {{model: alone}}, to: [same]}}
  - {{match: {{model: same}}, to: [down, same]}}
  - {{match: {{model: other}}, to: [down, {{provider: other, model: claude-sonnet-4-5}}]}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 100000 USD/day}}}}
audit: {{sink: none}}
plugins: [{{use: cost_cap}}, {{use: failover}}]
"""


async def measure(calls: int) -> dict[str, tuple[list[float], float]]:
    """Seconds of each call, and CPU seconds of one, for each route, whole and streamed, and of the failing provider."""
    async with (
        Simulator(fault="503") as down,
        Simulator() as up,
        gateway(POLICY.format(down=down.url, up=up.url)) as (url, _),
        aiohttp.ClientSession() as http,
    ):

        async def ask(base: str, model: str, stream: bool) -> tuple[float, float]:
            body = {
                "model": model,
                "stream": stream,
                "messages": [{"role": "user", "content": "hello " * 30}],
            }
            began, cpu = time.perf_counter(), time.process_time()
            async with http.post(f"{base}/v1/chat/completions", json=body) as reply:
                await reply.content.readany()
                took = time.perf_counter() - began
                await reply.read()
            return took, time.process_time() - cpu

        todo = [(url, model, stream) for model in ("alone", "same", "other") for stream in (False, True)]
        todo.append((down.url, "m", False))
        found: dict[str, tuple[list[float], list[float]]] = {}
        for turn in range(calls + 10):
            for base, model, stream in todo:
                took, cpu = await ask(base, model, stream)
                if turn >= 10:
                    times, cpus = found.setdefault(f"{model} {'streamed' if stream else 'whole'}", ([], []))
                    times.append(took)
                    cpus.append(cpu)
        return {name: (times, statistics.median(cpus)) for name, (times, cpus) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):
        found = asyncio.run(measure(options.calls))
    failed, _ = found["m whole"]
    own = statistics.median(failed)
    print(f"the failed attempt itself: {own * 1000:.2f} ms (p50)")
    for model in ("same", "other"):
        for way in ("whole", "streamed"):
            times, cpu = found[f"{model} {way}"]
            alone, cpu_alone = found[f"alone {way}"]
            added = (statistics.median(times) - statistics.median(alone) - own) * 1000
            mark = "" if added <= GOAL_MS else f"  MISSED, goal {GOAL_MS:g}"
            what = "same dialect" if model == "same" else "translated"
            print(f"{what}, {way}: {added:+.2f} ms (p50), {(cpu - cpu_alone) * 1000:.2f} ms CPU{mark}")


if __name__ == "__main__":
    main()
