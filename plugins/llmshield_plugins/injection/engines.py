"""Further opinions, asked for by the policy: a classifier in a local folder, or a model of one of its providers.

An engine says how likely a text is an attack, 0 to 1; what it says counts beside the plugin's own findings. Both take
longer than anything else here (a classifier 10-300 ms, a model a second), so by default they are asked only about what
the plugin itself finds doubtful. One that fails is an error of the plugin: `on_error` says what that means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from llmshield.call import Attempt, Call, Text
from llmshield.hookspecs import Settings as Base
from llmshield.policy.units import PositiveDuration
from llmshield.verdicts import Block

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class OnnxSettings(Base):
    """A text classifier as `optimum` exports it: model.onnx, tokenizer.json, config.json in one folder."""

    path: Path = Field(description="The folder.")
    attack: tuple[str, ...] = Field(
        (), description="Labels that mean an attack; else those that config.json calls so, or the last."
    )
    window: Annotated[int, Field(ge=16, le=8_192)] = Field(512, description="Tokens read at once.")
    most: Annotated[int, Field(ge=1, le=1_000)] = Field(
        32, description="Windows of one text at most; of a longer one, those are read evenly spread."
    )
    threads: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Threads of one reading.")


class JudgeSettings(Base):
    """A model of the policy that is asked for a number."""

    provider: str = Field(description="A name under `providers`.")
    model: str = Field(description="The model there.")
    longest: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        20_000, description="Characters of a text that it is shown: the beginning and the end."
    )


class EngineSettings(Base):
    """One engine: `onnx` or `judge`."""

    onnx: OnnxSettings | None = None
    judge: JudgeSettings | None = None
    ask: Literal["doubtful", "always"] = Field(
        "doubtful", description="Texts that are flagged and not refused, or all of the last turn."
    )
    block_at: Share = Field(0.90, description="From here on a text is refused.")
    flag_at: Share = Field(0.50, description="From here on it is reported.")
    timeout: PositiveDuration = Field(10.0, description="For all texts of one call.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.onnx is None) == (self.judge is None):
            raise ValueError("an engine is either `onnx` or `judge`")
        if self.flag_at > self.block_at:
            raise ValueError(f"flag_at ({self.flag_at}) is above block_at ({self.block_at})")
        return self


class Engine(Protocol):
    """What `engines` are made of."""

    settings: EngineSettings

    async def rate(self, call: Call, texts: Sequence[str]) -> Sequence[float]:
        """How likely each text is an attack, 0 to 1.

        Raises: what makes the plugin fail: PluginError, UpstreamError, CallError.
        """
        ...


def build(settings: EngineSettings) -> Engine:
    """The engine, loaded. Raises: PluginError when its folder or a library is missing."""
    if settings.onnx is not None:
        from .onnx_engine import OnnxEngine

        return OnnxEngine(settings, settings.onnx)
    from .judge_engine import JudgeEngine

    assert settings.judge is not None
    return JudgeEngine(settings, settings.judge)


class Turn:
    """One engine and the texts of one call that it is asked about."""

    def __init__(
        self, engine: Engine, texts: Sequence[Text], action_for: Callable[[str], str], name: str
    ) -> None:
        self._engine = engine
        self._texts = texts
        self._action_for = action_for
        self._name = name
        self.timeout = engine.settings.timeout

    async def verdict(self, call: Call) -> Block | Literal["answer"] | None:
        """Ask, report, and say what becomes of the call. A text that could be wrapped is refused: what an engine takes
        for an attack has been read as it stands. Raises: what the engine raises, TimeoutError."""
        settings = self._engine.settings
        async with asyncio.timeout(self.timeout):
            scores = await self._engine.rate(call, [text.value for text in self._texts])
        for text, score in zip(self._texts, scores, strict=True):
            if score < settings.flag_at:
                continue
            action = self._action_for(text.role) if score >= settings.block_at else "flag"
            call.report(
                "engine", "flag" if action == "flag" else "block", score=round(score, 4), place=text.place
            )
            if action == "answer":
                return "answer"
            if action != "flag":
                return Block(f"Blocked by policy {self._name!r}: engine in {text.param}.", param=text.param)
        return None


_asking: ContextVar[bool] = ContextVar("asking", default=False)


def once(turn: Turn, call: Call) -> Callable[[Attempt], Awaitable[Block | None]]:
    """A guard of attempts that asks before the first of them, however many are made at once; the judge's own attempts pass.

    Nothing can be answered there any more: what would be a fixed answer is a refusal.
    """
    lock = asyncio.Lock()
    said: list[Block | None] = []

    async def guard(attempt: Attempt) -> Block | None:
        if _asking.get():
            return None
        async with lock:
            if not said:
                token = _asking.set(True)
                try:
                    verdict = await turn.verdict(call)
                finally:
                    _asking.reset(token)
                said.append(Block("Blocked by policy: engine.") if verdict == "answer" else verdict)
        return said[0]

    return guard
