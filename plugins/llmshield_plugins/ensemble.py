"""ensemble: ask several providers the same, and answer with the first, the majority, the best, or all of them.

Each member is an attempt of its own: it is reserved and limited at its own price and rate, and paid whatever becomes
of its answer. Members that fail are missed, as long as `quorum` of them answer.

Settings:

- `members` (required): two to eight targets, each a provider or `{provider, model}`.
- `answer: first`: `first` (who begins first is streamed, the others are cancelled), `majority` (the answer that most
  give, tools that it calls included, compared without case, line breaks and the punctuation at the ends; at a draw the
  first of the list), `judge` (the best in the eyes of a model), `all` (one choice for each; a dialect without choices
  gets the first).
- `judge: {provider, model}`: who judges.
- `criteria: "Which answer is the most correct and helpful?"`: what the judge is asked.
- `quorum: 1`: with fewer answers the call fails, or gets the route's `degraded` message (of `failover`).
- `models: ["*"]`: only calls for these models are asked in this way.

With `majority`, `judge` and `all` the answers are awaited whole; a client that streams gets the chosen one as a stream
at once. Of several choices that a call asks for (`n`), `all` shows each member's first. A judge that fails, is refused
by a budget, or talks of something else leaves the first answer.

Texts of answers are shown to the judge as their providers wrote them, with placeholders of `pii` still in. The
filters of guards read the chosen answer alone. The client's own key is never passed on to members of an ensemble that
answers whole; give each provider an `api_key`.

Monitor mode: nothing is asked but what the policy's route says; the choice is counted.

Hooks: choose_provider.

Example:

    providers:
      one: {dialect: openai}
      two: {dialect: anthropic}
    plugins:
      - use: ensemble
        members: [{provider: one, model: gpt-4o}, {provider: two, model: claude-sonnet-4-5}]
        answer: majority
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmshield import hookspecs
from llmshield.call import Call
from llmshield.errors import CallError, PluginError, UpstreamError
from llmshield.hookspecs import Plugin, Resources
from llmshield.policy import Policy
from llmshield.policy.globs import compile_globs
from llmshield.verdicts import Route, Target

_ASKED = "Several answers to the same question follow. {criteria}\nReply with the number of that answer and nothing else."
_LONGEST = 20_000
"""Characters of one answer that a judge is shown."""
_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?!\d)", re.ASCII)
_MARK = re.compile(r"<(?=/?(?:answer|question)\b)", re.IGNORECASE)
_AT_ENDS = " .,;:!?\"'`*_()\u3002\u2026\u201c\u201d\u2018\u2019"
""""Yes." and "yes" are one answer; inside of a text, and before a number (-5, $5), every sign counts."""


class MemberShape(BaseModel):
    """Somebody to ask."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    provider: str = Field(description="A name under `providers`.")
    model: str | None = Field(None, description="The model there; else the one that the client named.")

    @property
    def target(self) -> Target:
        """The same as the word that hooks use."""
        return Target(self.provider, self.model)


def _target(value: Any) -> Any:
    return {"provider": value} if isinstance(value, str) else value


Member = Annotated[MemberShape, BeforeValidator(_target, json_schema_input_type=str | MemberShape)]


class Ensemble(Plugin):
    """Sends a call to several providers at once."""

    class Settings(hookspecs.Settings):
        """What `ensemble:` may say."""

        members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=8)] = Field(
            description="Who is asked."
        )
        answer: Literal["first", "majority", "judge", "all"] = Field(
            "first", description="Which answer the client gets."
        )
        judge: Member | None = Field(None, description="Who judges, for `answer: judge`.")
        criteria: str = Field(
            "Which answer is the most correct and helpful?", description="What the judge is asked."
        )
        quorum: Annotated[int, Field(ge=1, le=8)] = Field(
            1, description="Answers without which the call fails."
        )
        models: tuple[str, ...] = Field(("*",), description="Calls for these models are asked in this way.")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.answer == "judge" and self.judge is None:
                raise ValueError("`answer: judge` needs a `judge`, such as {provider: openai, model: gpt-4o}")
            if self.quorum > len(self.members):
                raise ValueError(f"a quorum of {self.quorum} can't be had of {len(self.members)} members")
            return self

    settings: Settings

    async def start(self, resources: Resources) -> None:
        """Check the members against the policy's providers."""
        settings = self.settings
        known = resources.get(Policy).providers
        for shape in (*settings.members, *((settings.judge,) if settings.judge is not None else ())):
            if shape.provider not in known:
                raise PluginError(
                    f"ensemble: there is no provider {shape.provider!r}; name one of `providers`."
                )
        self._means = compile_globs(settings.models)
        self._targets = tuple(shape.target for shape in settings.members)

    def choose_provider(self, call: Call, route: Route) -> Route | None:
        """All members, for calls that are meant."""
        if call.operation != "generate" or not self._means(call.model):
            return None
        settings = self.settings
        why = f"ensemble of {len(self._targets)}, {settings.answer}"
        if settings.answer == "first":
            return Route(self._targets, mode="race", why=why)

        async def pick(candidates: Sequence[Any]) -> Sequence[int]:
            return await self._pick(call, candidates)

        return Route(self._targets, mode="all", why=why, pick=pick, quorum=settings.quorum)

    async def _pick(self, call: Call, candidates: Sequence[Any]) -> Sequence[int]:
        how = self.settings.answer
        if how == "all":
            return range(len(candidates))
        if how == "majority":
            return [majority([candidate.text for candidate in candidates])]
        return [await self._judged(call, [candidate.text for candidate in candidates])]

    async def _judged(self, call: Call, texts: Sequence[str]) -> int:
        """The judge's choice; the first answer where it makes none (a broken judge must not cost the answer)."""
        if len(texts) == 1:
            return 0
        assert self.settings.judge is not None
        question = next((text.value for text in reversed(list(call.prompts("user")))), "")
        answers = "\n\n".join(
            f'<answer number="{number}">\n{_quoted(text)}\n</answer>' for number, text in enumerate(texts, 1)
        )
        prompt = f"<question>\n{_quoted(question)}\n</question>\n\n{answers}"
        system = _ASKED.format(criteria=self.settings.criteria)
        try:
            said = await call.ask(self.settings.judge.target, prompt, system=system, max_tokens=16)
        except (
            UpstreamError,
            CallError,
        ):  # it failed, or a budget does not reach for it: the answers are paid
            return 0
        numbers = {int(each) for each in _NUMBER.findall(said[:100])}
        number = numbers.pop() if len(numbers) == 1 else 0
        return number - 1 if 1 <= number <= len(texts) else 0


def _quoted(text: str) -> str:
    """A text between the judge's marks, which it can't write itself."""
    return _MARK.sub("(", text[:_LONGEST])


def majority(texts: Sequence[str]) -> int:
    """The first of the answers that most of them give."""
    plain = [" ".join(text.casefold().split()).strip(_AT_ENDS) for text in texts]
    counts = Counter(plain)
    most = max(counts.values())
    return next(index for index, text in enumerate(plain) if counts[text] == most)
