"""The chain: order, modes, failures, edits; what a plugin may and may not do."""

import asyncio
import textwrap
from pathlib import Path
from typing import Any

import pytest

from llmshield import chain
from llmshield.call import Reply
from llmshield.chain import Trail, run_step
from llmshield.errors import CallError, PluginError, PolicyError
from llmshield.policy import Policy, loads
from llmshield.testing import call
from llmshield.verdicts import Answer, Block, Route, Target

pytestmark = pytest.mark.usefixtures("idle_machine")

HEAD = "from llmshield.hookspecs import Plugin, hookimpl\nfrom llmshield.verdicts import *\nimport time, asyncio\n"


def built(tmp_path: Path, body: str, options: str = "") -> chain.Chain:
    """A chain of one plugin with this class body."""
    (tmp_path / "mine.py").write_text(
        HEAD + "class Mine(Plugin):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return chain.build(_policy(tmp_path, f"{{use: ./mine.py{options}}}"))


def _policy(tmp_path: Path, *uses: str, more: str = "") -> Policy:
    lines = "\n".join(f"  - {use}" for use in uses)
    return loads(f"version: 1\nplugins:\n{lines}\n{more}", source="policy.yaml", base=tmp_path)


async def run(
    made: chain.Chain, hook: str = "pre_request", *rest: Any, text: str = "hello"
) -> tuple[Any, Trail, Any]:
    subject, trail = call(text), Trail()
    verdict = None
    for step in getattr(made, hook):
        verdict = await run_step(step, trail, subject, *rest)
        if verdict is not None:
            break
    return verdict, trail, subject


async def test_order_is_the_policys_and_reversed_after(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(
            HEAD
            + f"class P(Plugin):\n    def pre_request(self, call): call.tags['o'] = call.tags.get('o', '') + '{name}'\n"
            f"    async def post_response(self, call, reply): call.tags['o'] = call.tags.get('o', '') + '{name}'\n"
        )
    made = chain.build(_policy(tmp_path, "use: ./a.py", "use: ./b.py", "use: ./c.py"))
    _, _, subject = await run(made)

    assert "abc" == subject.tags["o"]

    subject.tags.clear()
    reply = Reply(provider="p", model="m", dialect="openai_chat", stream=False)
    for step in made.post_response:
        await run_step(step, Trail(), subject, reply)

    assert "cba" == subject.tags["o"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("@hookimpl(tryfirst=True)\ndef pre_request(self, call): ...", "order belongs to the policy"),
        ("@hookimpl(trylast=True)\ndef pre_request(self, call): ...", "order belongs to the policy"),
        ("@hookimpl(wrapper=True)\ndef pre_request(self, call): yield", "order belongs to the policy"),
        ("def pre_request(self, kall): ...", "kall"),
        ("def pre_reqest(self, call): ...", "did you mean 'pre_request'"),
        ("def __init__(self, settings): raise ValueError('no')", "can't be made"),
    ],
)
def test_what_breaks_the_contract_is_refused_at_load(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(
        (PluginError, PolicyError), match=words
    ):  # where its class shows it, `check` tells as well
        built(tmp_path, body)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_hook_may_be_sync_or_async_and_take_fewer_arguments(tmp_path: Path, kind: str) -> None:
    made = built(tmp_path, f"{kind} post_response(self, reply): return Block(f'no {{reply.model}}')")
    reply = Reply(provider="p", model="m", dialect="openai_chat", stream=False)
    verdict, _, _ = await run(made, "post_response", reply)

    assert Block("no m") == verdict


@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        ("Block('no')", "block"),
        ("Answer('hi')", "answer"),
        ("Route((Target('x'),))", "route"),
        ("None", "allow"),
    ],
)
async def test_verdicts_are_named_for_the_record(tmp_path: Path, verdict: str, action: str) -> None:
    said, trail, _ = await run(built(tmp_path, f"def pre_request(self, call): return {verdict}"))

    assert {"block": Block("no"), "answer": Answer("hi"), "route": Route((Target("x"),))}.get(action) == said
    assert action == trail.took[0].action


FAILURES = [
    "raise RuntimeError('secret words')",
    "return 'garbage'",
    "return True",
    "time.sleep(0.06)",
    "call.texts[0].replace(0, 99, 'x')",
    "call.texts[0].replace(0, 3, 'x'); call.texts[0].replace(2, 4, 'y')",
    "call.clamp_output(0)",
    "call.clamp_output(1.5)",
    "raise SystemExit(3)",
    "raise GeneratorExit",
    "raise asyncio.CancelledError",
    "return Block(5)",
    "return Block('no', kind='strange')",
    "return Answer(None)",
    "return Route(('openai',))",
    "return Route((Target('x'),), mode='some')",
    "return Route((Target('x'),), after=float('nan'))",
]


@pytest.mark.parametrize("line", FAILURES)
async def test_what_fails_is_closed_by_default(tmp_path: Path, line: str) -> None:
    made = built(tmp_path, f"def pre_request(self, call):\n    {line}", ", timeout: 50ms")
    with pytest.raises(CallError) as caught:
        await run(made)

    assert "policy_unavailable" == caught.value.kind
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", FAILURES)
async def test_what_fails_is_passed_over_when_open(tmp_path: Path, line: str) -> None:
    made = built(
        tmp_path,
        f"def pre_request(self, call):\n    call.texts[0].set('changed'); call.guard_attempt(print)\n    {line}",
        ", timeout: 50ms, on_error: open",
    )
    verdict, trail, subject = await run(made)

    assert verdict is None
    assert "error" == trail.took[0].action
    assert "hello" == subject.texts[0].value
    assert [] == subject._attempt_guards


@pytest.mark.parametrize(
    "line", ["raise SystemExit(3)", "raise asyncio.CancelledError", "return Route((0,))"]
)
async def test_an_async_hook_that_fails_neither_ends_the_gateway_nor_hangs_up(
    tmp_path: Path, line: str
) -> None:
    made = built(tmp_path, f"async def pre_request(self, call):\n    {line}")
    with pytest.raises(CallError) as caught:
        await run(made)

    assert "policy_unavailable" == caught.value.kind


async def test_a_call_that_is_cancelled_is_no_failure_of_the_hook_that_waits(tmp_path: Path) -> None:
    made = built(tmp_path, "async def pre_request(self, call): await asyncio.sleep(5)", ", timeout: 5s")
    task = asyncio.create_task(run(made))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_async_hook_is_cut_off_at_its_timeout(tmp_path: Path) -> None:
    made = built(tmp_path, "async def pre_request(self, call): await asyncio.sleep(5)", ", timeout: 20ms")
    with pytest.raises(CallError):
        await asyncio.wait_for(run(made), 1)


async def test_a_blocking_hook_leaves_the_loop_free_and_its_late_edits_count_for_nothing(
    tmp_path: Path,
) -> None:
    made = built(
        tmp_path,
        "blocking = True\ndef pre_request(self, call):\n    time.sleep(0.1)\n    call.texts[0].set('late')",
        ", timeout: 20ms, on_error: open",
    )
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticker = asyncio.create_task(tick())
    _, _, subject = await run(made)
    await asyncio.sleep(0.15)
    ticker.cancel()

    assert ticks >= 2
    assert "hello" == subject.texts[0].value
    assert [] == subject._proposals


async def test_a_blocking_hook_in_time_counts(tmp_path: Path) -> None:
    made = built(tmp_path, "blocking = True\ndef pre_request(self, call): call.texts[0].set('in time')")
    _, trail, subject = await run(made)

    assert "in time" == subject.texts[0].value
    assert "redact" == trail.took[0].action


async def test_monitor_takes_the_whole_decision_and_changes_nothing(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        "def pre_request(self, call):\n    call.texts[0].set('x'); call.clamp_output(5); return Block('no')",
        ", mode: monitor",
    )
    verdict, trail, subject = await run(made)

    assert verdict is None
    assert "hello" == subject.texts[0].value
    assert trail.clamp is None
    assert ("would-block", False) == (trail.took[0].action, trail.took[0].enforced)


async def test_edits_are_applied_from_any_order(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        "def pre_request(self, call):\n    t = call.texts[0]\n    t.replace(6, 11, 'W'); t.replace(0, 5, 'H'); t.replace(5, 5, ',')",
    )
    _, _, subject = await run(made, text="hello world")

    assert "H, W" == subject.texts[0].value


async def test_the_lowest_clamp_wins(tmp_path: Path) -> None:
    made = built(tmp_path, "def pre_request(self, call): call.clamp_output(50); call.clamp_output(20)")
    _, trail, _ = await run(made)

    assert 20 == trail.clamp


def test_disabled_plugins_have_no_steps(tmp_path: Path) -> None:
    made = built(tmp_path, "def pre_request(self, call): return Block('no')", ", mode: disabled")

    assert () == made.pre_request


def test_an_override_changes_the_mode_and_is_compiled_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        HEAD + "class P(Plugin):\n    def pre_request(self, call): return Block('no')\n"
    )
    policy = _policy(
        tmp_path,
        "use: ./mine.py",
        more="overrides:\n  - match: {tenant: anonymous}\n    plugins: {mine: {mode: monitor}}\n"
        "    reason: a test\n    until: 2099-01-01\n",
    )
    made = chain.build(policy)
    variant = made.under(policy.overrides)

    assert made.pre_request[0].enforced
    assert not variant.pre_request[0].enforced
    assert variant is made.under(policy.overrides)


async def test_a_plugin_that_cannot_start_is_named(tmp_path: Path) -> None:
    made = built(
        tmp_path, "async def start(self, resources): raise OSError('gone')\ndef pre_request(self, call): ..."
    )
    with pytest.raises(PluginError, match="'mine' can't start"):
        await made.start(None)  # type: ignore[arg-type]


async def test_time_grows_with_the_text(tmp_path: Path) -> None:
    made = built(tmp_path, "def pre_request(self, call): time.sleep(0.06)", ", timeout: 50ms")
    trail = Trail(stretch=chain.stretch_for(20_000))

    assert await run_step(made.pre_request[0], trail, call("x")) is None


async def test_what_a_failed_hook_hung_on_the_reply_is_gone(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        "def post_response(self, call, reply):\n    reply.filter(lambda c: None)\n    reply.at_end(print)\n    1 / 0",
        ", on_error: open",
    )
    reply = Reply(provider="p", model="m", dialect="openai_chat", stream=False)
    await run(made, "post_response", reply)

    assert ([], []) == (reply._filters, reply._on_end)


WAITS = """
turns = 0
async def _turn(self):
    await asyncio.sleep({nap})
    type(self).turns += 1
    return {said}
{head} pre_request(self, call):
    return Wait(self._turn, at_most_s={most})
"""


@pytest.mark.parametrize("head", ["def", "async def"])
async def test_a_wait_is_no_work_of_the_hook(tmp_path: Path, head: str) -> None:
    """It may last longer than the hook's time limit, and ends in the verdict of its turn."""
    body = WAITS.format(nap=0.15, most=1, said="Block('no')", head=head)
    verdict, trail, _ = await run(built(tmp_path, body, ", timeout: 50ms"))

    assert verdict == Block("no")
    assert [(took.action, took.error) for took in trail.took] == [("block", None)]


async def test_a_wait_has_an_end(tmp_path: Path) -> None:
    body = WAITS.format(nap=5, most=0.01, said="None", head="def")
    with pytest.raises(CallError) as caught:
        await run(built(tmp_path, body, ", timeout: 50ms"))

    assert caught.value.kind == "policy_unavailable"


async def test_nobody_waits_in_monitor_mode(tmp_path: Path) -> None:
    made = built(tmp_path, WAITS.format(nap=5, most=9, said="None", head="def"), ", mode: monitor")
    verdict, trail, _ = await run(made)

    assert verdict is None
    assert [took.action for took in trail.took] == ["would-wait"]


@pytest.mark.parametrize(
    "body",
    [WAITS.format(nap=0, most=9, said="Wait(self._turn, 1)", head="def"),
     "def on_failure(self, call, failure): return Wait(None, 1)"],
)  # fmt: skip
async def test_a_turn_ends_the_wait_and_only_the_first_hook_waits(tmp_path: Path, body: str) -> None:
    hook = "on_failure" if "on_failure" in body else "pre_request"
    rest = (None,) if hook == "on_failure" else ()
    with pytest.raises(CallError, match="plugin 'mine' failed"):
        await run(built(tmp_path, body), hook, *rest)


async def test_a_hook_that_has_nothing_to_do_is_not_run(tmp_path: Path) -> None:
    body = """
        def __init__(self, settings):
            super().__init__(settings)
            self.idle = frozenset({"post_response"})
        def pre_request(self, call): pass
        def post_response(self, call, reply): raise AssertionError
    """
    made = built(tmp_path, body)

    assert (["mine"], []) == ([step.plugin for step in made.pre_request], list(made.post_response))
