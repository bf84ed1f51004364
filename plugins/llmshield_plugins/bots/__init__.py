"""bots: who calls like a machine where people are expected; a score from four signals, and the policy acts on it.

| signal | what is seen | weight |
|---|---|---|
| `fast` | calls of one caller less than `gap` apart, up to `calls` in a row | 0.5 |
| `sequential` | prompts, users or request ids that differ by a number that only rises or only falls, up to `calls` in a row | 0.6 |
| `user_agent` | headless browsers, crawlers, scanners; no user agent at all counts half | 0.7 |
| `browser` | `browser: true` only: what each browser sends is missing (language, fetch metadata, origin) | 0.7 |

Each signal has a strength from 0 to 1; the score is 1 - (1 - weight x strength) x ... over all of them. So no behaviour
blocks by itself: calls that are fast and in sequence come to 0.8 and are flagged.

SDKs and HTTP libraries are programs, and where programs are expected that means nothing: a client that names itself
as an SDK is not judged at all, a library only by what it does. With `browser: true` both are suspicious user agents.
A user agent is a claim that anyone can make: these are signals against careless bots, limits are for the others.

A caller is a tenant at an address (IPv6 by its /64). Each process remembers the 20,000 callers it saw last, for
`memory`; of prompts it keeps a number that stands for the text without digits, and the digits.

Settings:

- `browser: false`: true where the callers are browsers, such as a chat on a web page.
- `flag_at: 0.60`, `block_at: 0.90`: scores from which a call is reported, and refused (403). `block_at: 1.0` never
  refuses by these signals' default weights.
- `gap: 500ms`, `calls: 10`, `memory: 10m`: see above.
- `weights: {fast: 0.5, ...}`: 0 leaves a signal out.
- `user_agents: ["*acme-scraper*"]` (none): further suspicious ones, as globs.
- `allow_user_agents: ["uptime-robot/*"]` (none): never judged.

Monitor mode: the score is taken and counted, nothing is refused.

Hooks: pre_request.

Example:

    plugins:
      - use: bots
        browser: true
        flag_at: 0.60
        block_at: 0.90
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmshield import clock, hookspecs
from llmshield.addresses import network_of
from llmshield.call import Call
from llmshield.hookspecs import Plugin, Resources
from llmshield.policy import PositiveDuration
from llmshield.policy.globs import compile_globs
from llmshield.verdicts import Block
from llmshield_plugins.bots.agents import Kind, kind_of, missing_marks
from llmshield_plugins.bots.history import Histories

Share = Annotated[float, Field(ge=0, le=1)]

_SUSPICION: dict[bool, dict[Kind, float]] = {
    False: {"tool": 1.0, "none": 0.5, "other": 0.0, "library": 0.0, "sdk": 0.0, "browser": 0.0},
    True: {"tool": 1.0, "none": 1.0, "other": 0.5, "library": 1.0, "sdk": 1.0, "browser": 0.0},
}
"""How suspicious a kind of user agent is, by `browser`."""

_UNJUDGED = frozenset({"models", "count_tokens"})
"""Operations that clients call by themselves."""


class Weights(BaseModel):
    """What each signal may add to the score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fast: Share = Field(default=0.5, description="Calls that follow each other at once.")
    sequential: Share = Field(default=0.6, description="Prompts, users or request ids that count up or down.")
    user_agent: Share = Field(default=0.7, description="A suspicious user agent.")
    browser: Share = Field(
        default=0.7, description="Marks of a browser that are missing (with `browser: true`)."
    )


class Bots(Plugin):
    """Scores each call's caller; flags or refuses."""

    class Settings(hookspecs.Settings):
        """What `bots:` may say."""

        browser: bool = Field(False, description="The callers are browsers; SDKs and libraries are not.")
        flag_at: Share = Field(0.60, description="Score from which a call is reported.")
        block_at: Share = Field(0.90, description="Score from which a call is refused.")
        gap: PositiveDuration = Field(0.5, description="Calls closer than this are fast.")
        calls: Annotated[int, Field(ge=3, le=1000)] = Field(
            10, description="So many in a row make a signal as strong as it gets."
        )
        memory: PositiveDuration = Field(600.0, description="How long a silent caller is remembered.")
        weights: Weights = Field(Weights(), description="What each signal may add to the score.")
        user_agents: tuple[str, ...] = Field((), description="Further suspicious user agents (globs).")
        allow_user_agents: tuple[str, ...] = Field(
            (), description="User agents that are never judged (globs)."
        )

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.flag_at > self.block_at:
                raise ValueError(
                    f"flag_at ({self.flag_at}) is above block_at ({self.block_at}): what is blocked is flagged as well"
                )
            return self

    settings: Settings

    async def start(self, resources: Resources) -> None:
        """Compile the patterns."""
        settings = self.settings
        self._histories = Histories(gap_s=settings.gap, calls=settings.calls, memory_s=settings.memory)
        self._suspicion = _SUSPICION[settings.browser]
        self._bad = compile_globs([glob.lower() for glob in settings.user_agents])
        self._good = compile_globs([glob.lower() for glob in settings.allow_user_agents])

    def pre_request(self, call: Call) -> Block | None:
        """Take the signals, report them, refuse where they are strong enough."""
        settings = self.settings
        if call.operation in _UNJUDGED:
            return None
        agent = call.headers.get("user-agent", "")[:512].lower()
        if settings.allow_user_agents and self._good(agent):
            return None
        kind = "tool" if settings.user_agents and self._bad(agent) else kind_of(agent, call.headers)
        if kind == "sdk" and not settings.browser:
            return None
        history = self._histories.of(f"{call.tenant} {network_of(call.client)}", clock.monotonic())
        strengths = {
            "fast": history.fast(),
            "sequential": history.sequential(call),
            "user_agent": self._suspicion[kind],
            "browser": missing_marks(call.headers) if settings.browser else 0.0,
        }
        doubt = 1.0
        signals: list[str] = []
        for name, strength in strengths.items():
            weight: float = getattr(settings.weights, name) * strength
            if weight > 0:
                doubt *= 1 - weight
                signals.append(name)
        score = round(1 - doubt, 4)
        if score < settings.flag_at or not signals:
            return None
        blocks = score >= settings.block_at
        for name in signals:
            call.report(name, "block" if blocks else "flag", score=score)
        if not blocks:
            return None
        return Block(
            f"This call looks automated ({', '.join(signals)}) and is refused by policy {self.name or 'bots'!r}.",
            kind="forbidden",
        )
