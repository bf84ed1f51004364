"""Several providers asked at once: a hedge, whose first to begin answers; and all of them, for somebody to pick.

Each is an attempt of its own: guarded, reserved and ended like any other. Who loses is cancelled, and paid for what it
did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmshield.attempts import Prepared
from llmshield.call import Attempt
from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Finished,
    MediaPart,
    Metered,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from llmshield.dialects import WholeReply
from llmshield.errors import UpstreamError
from llmshield.exchange import Exchange
from llmshield.translators import Writer
from llmshield.verdicts import Target


class Floor:
    """Who may speak to the client: the first attempt that wants to. Claiming it ends the others' tasks."""

    def __init__(self) -> None:
        self.winner: Attempt | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def claim(self, attempt: Attempt) -> None:
        """Raises: CancelledError for everybody but the first."""
        if self.winner is None:
            self.winner = attempt
            mine = asyncio.current_task()
            for task in self.tasks:
                if task is not mine:
                    task.cancel()
        elif self.winner is not attempt:
            raise asyncio.CancelledError


Ask = Callable[[Target], Awaitable[None]]


async def race(
    x: Exchange, targets: Sequence[Target], after_s: float, ask: Ask, asked: Callable[[], None]
) -> None:
    """Ask the first target, and the others as well if nobody has begun to answer after `after_s` seconds.

    Raises: what the last of them raised, when none has answered.
    """
    floor = x.floor = Floor()
    loop = asyncio.get_running_loop()
    floor.tasks.append(loop.create_task(_run(ask, targets[0])))
    error: BaseException | None = None
    try:
        done, _ = await asyncio.wait(floor.tasks, timeout=after_s)
        if not done and floor.winner is None:
            asked()
            floor.tasks += [loop.create_task(_run(ask, target)) for target in targets[1:]]
        pending = set(floor.tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.cancelled():
                    continue
                error = task.exception()
                if error is None:
                    return
                if not isinstance(error, UpstreamError):  # a guard's word ends the call
                    raise error
    finally:
        x.floor = None if floor.winner is None else floor
        for task in floor.tasks:
            task.cancel()
        await asyncio.gather(*floor.tasks, return_exceptions=True)
    assert error is not None
    raise error


async def _run(ask: Ask, target: Target) -> None:
    await ask(target)


@dataclass(slots=True)
class Candidate:
    """One whole reply that may be the answer. `text` is what it says, as its provider wrote it."""

    attempt: Attempt
    prepared: Prepared
    reply: WholeReply
    target: Target
    text: str


def read_text(answered: Answered) -> str:
    """The words of a reply's first choice."""
    parts = answered.choices[0].parts if answered.choices else []
    return "".join([part.text for part in parts if isinstance(part, TextPart)])


async def collect(
    targets: Sequence[Target], ask: Callable[[Target], Awaitable[Candidate]], quorum: int
) -> tuple[list[Candidate], list[UpstreamError]]:
    """Ask all targets; the replies that came, in the targets' order, and the failures.

    Raises: UpstreamError of a failure when there are fewer than `quorum`; CallError of a guard.
    """
    tasks = [asyncio.get_running_loop().create_task(_candidate(ask, target)) for target in targets]
    try:
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    candidates = [result for result in results if isinstance(result, Candidate)]
    failures = [result for result in results if isinstance(result, UpstreamError)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, UpstreamError):
            if len(candidates) >= quorum and isinstance(result, Exception):
                continue
            raise result
    if len(candidates) < max(1, quorum):
        raise failures[0] if failures else UpstreamError("skipped", "Nobody could be asked.")
    return candidates, failures


async def _candidate(ask: Callable[[Target], Awaitable[Candidate]], target: Target) -> Candidate:
    return await ask(target)


def as_stream(answered: Answered, writer: Writer) -> bytes:
    """A whole reply, as a stream that says all of it at once."""
    out = writer.write(Begun(answered.model, answered.id, answered.created))
    for number, choice in enumerate(answered.choices):
        out += b"".join([_part(writer, number, index, part) for index, part in enumerate(choice.parts)])
    for number, choice in enumerate(answered.choices):
        out += writer.write(Finished(number, choice.finish or "stop", choice.stop_sequence))
    if answered.usage is not None:
        out += writer.write(Metered(answered.usage))
    return out + writer.write(Over())


def _part(writer: Writer, choice: int, index: int, part: Any) -> bytes:
    if isinstance(part, TextPart):
        begun, said = PartBegun(choice, index, "refusal" if part.refusal else "text"), part.text
    elif isinstance(part, ReasoningPart):
        begun, said = PartBegun(choice, index, "reasoning", family=part.family), part.text
    elif isinstance(part, ToolCallPart):
        kind = "custom_call" if part.custom else "tool_call"
        begun, said = PartBegun(choice, index, kind, part.id, part.name), part.arguments or "{}"  # type: ignore[arg-type]
    else:
        assert isinstance(part, MediaPart | ToolResultPart)
        return b""
    out = writer.write(begun)
    if said:
        out += writer.write(PartGrew(choice, index, said))
    return out + writer.write(
        PartEnded(choice, index, getattr(part, "signature", None), getattr(part, "sealed", None))
    )


def together(answers: Sequence[Answered]) -> Answered:
    """Several replies as one with several choices; what they used is added up."""
    first = answers[0]
    if len(answers) == 1:
        return first
    choices: list[Choice] = [answered.choices[0] for answered in answers if answered.choices]
    used = [answered.usage for answered in answers if answered.usage is not None]
    if used:
        total = used[0]
        for usage in used[1:]:
            total.input = (total.input or 0) + (usage.input or 0)
            total.output = (total.output or 0) + (usage.output or 0)
            total.reasoning += usage.reasoning
            total.cache_read += usage.cache_read
        return Answered(first.model, choices, total, first.id, first.created)
    return Answered(first.model, choices, None, first.id, first.created)
