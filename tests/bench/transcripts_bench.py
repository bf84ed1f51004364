"""What `transcripts` costs on the hot path, and what its thread does for each conversation; microseconds of processor.

python tests/bench/transcripts_bench.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable

from llmshield import registry, vault
from llmshield.call import Attempt, Call, Channel, Reply
from llmshield.channels import Channels
from llmshield.filtering import filters_of
from llmshield.metrics import Metrics
from llmshield.steps import Step, Took, Trail, run_now
from llmshield.testing import Lent, policy, read
from llmshield.transcripts import Kept, Told, Transcripts

WORDS = "The harvest of quinces was poor this year, and nobody in the valley could say why. " * 12
PIECES = [WORDS[at : at + 4] for at in range(0, 1000, 4)]


def micros(run: Callable[[], object], turns: int = 5000) -> float:
    """The best of seven rounds, for one turn."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        for _ in range(turns):
            run()
        best = min(best, time.process_time() - began)
    return best / turns * 1e6


def call(headers: dict[str, str]) -> Call:
    made = read({"model": "m", "messages": [{"role": "user", "content": WORDS}]}, headers=headers)
    made.user, made._trail = "alice", [Took("pii", "pre_request", "allow", True, 0.1)]
    return made


async def main() -> None:
    plugin_class = registry.find("plugin", "transcripts")
    text = "providers: {a: {dialect: openai, base_url: 'http://127.0.0.1:9/v1'}}\nplugins: [{use: transcripts}, {use: pii}]"
    plugin = plugin_class(plugin_class.Settings(store="memory://"))
    await plugin.start(Lent(policy(text), Metrics()))
    plugin._writer.put = lambda told: None
    step = Step("transcripts", "post_response", plugin.post_response, False, False, True, False, 5.0)
    silent, agreed = call({}), call({"x-llmshield-consent": "transcripts"})

    def reply() -> Reply:
        return Reply(provider="a", model="m", dialect="openai_chat", stream=True)

    def whole(subject: Call, *, listen: bool) -> None:
        made = reply()
        if listen:
            run_now(step, Trail(), subject, made)
        attempt = Attempt(subject, number=1, provider="a", model="m", dialect="openai_chat", body={})
        channels = Channels(filters_of(made, attempt), lambda attached, what: None)
        channel = Channel("content")
        for piece in PIECES:
            channels.feed(channel, piece)
        channels.flush(channel)
        attempt.outcome = "ok"
        for _, _, end in made._on_end:
            end(made)

    made, trail = reply(), Trail()

    def hook() -> None:
        trail.took.clear()
        run_now(step, trail, silent, made)

    plain = micros(lambda: whole(silent, listen=False), 500)
    print(f"without consent, a call                     {micros(hook, 20_000):8.2f}")
    print(
        f"  of which the step itself (any plugin)     {micros(_empty(step, silent, made, trail), 20_000):8.2f}"
    )
    agreed_us = micros(lambda: whole(agreed, listen=True), 500)
    print(f"with consent, a stream of {len(PIECES)} pieces         {agreed_us - plain:8.2f}")
    print(f"  for each piece                            {(agreed_us - plain) / len(PIECES):8.2f}")
    await plugin.close()

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        kept = Transcripts(Kept("sqlite:///transcripts.db"))
        kept.open()
        number = 0

        def put() -> None:
            nonlocal number
            number += 64
            kept.put([Told("t", f"user{n % 50}", str(number + n), 2e9, kept.people.erasures, {}, [["user", "/", WORDS]] * 2)
                      for n in range(64)])  # fmt: skip

        print(f"the thread, a conversation of 2,000 characters {micros(put, 20) / 64:5.2f}")
        kept.close()


def _empty(step: Step, subject: Call, made: Reply, trail: Trail) -> Callable[[], None]:
    bare = Step("x", "post_response", lambda call, reply: None, False, False, True, False, 5.0)

    def run() -> None:
        trail.took.clear()
        run_now(bare, trail, subject, made)

    return run


if __name__ == "__main__":
    os.environ.setdefault("LLMSHIELD_SECRET_KEY", vault.new_key())
    sys.exit(asyncio.run(main()))
