"""The settings of `use: pii`, checked when the policy is read."""

from __future__ import annotations

import difflib
import re as _re_for_widths
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmshield.hookspecs import Settings
from llmshield.policy import PositiveDuration
from llmshield_plugins.pii import kinds
from llmshield_plugins.pii.expressions import compiled

Action = Literal["replace", "mask", "hash", "encrypt", "fake", "redact", "block", "flag"]

MAX_KEY = 64
MAX_REGEX = 4000


class EntityRule(BaseModel):
    """What becomes of one kind. `keep_last` characters stay readable under `mask`; below `min_score` nothing is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action = "replace"
    keep_last: int = Field(default=0, ge=0, le=MAX_KEY)
    min_score: float = Field(default=0.4, ge=0.0, le=1.0)


class CustomPattern(BaseModel):
    """One expression of a recogniser of your own, in google-re2 syntax."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    regex: str = Field(min_length=1, max_length=MAX_REGEX)
    score: float = Field(default=0.8, ge=0.0, le=1.0)
    context: tuple[str, ...] = ()

    @field_validator("regex")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            expression = compiled(value)
        except Exception as error:
            raise ValueError(
                f"regex is not google-re2 syntax: {error.args[0] if error.args else error!s}"
            ) from error
        if expression.fullmatch("") is not None:
            raise ValueError("regex matches the empty text; make it match at least one character")
        return value


class Recogniser(BaseModel):
    """A recogniser of your own: a kind, expressions, and words that are always of this kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{1,47}$")]
    patterns: tuple[CustomPattern, ...] = ()
    deny: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _not_empty(self) -> Recogniser:
        if not self.patterns and not self.deny:
            raise ValueError(f"recogniser {self.kind!r} has neither `patterns` nor `deny`")
        if self.kind[-1].isdigit():
            raise ValueError(
                f"kind {self.kind!r} ends in a digit; placeholders are numbered, so name it otherwise"
            )
        return self


ConversationSource = Annotated[
    str,
    Field(
        pattern=r"^(header:[A-Za-z0-9-]{1,64}|metadata:[A-Za-z0-9_.-]{1,64}|body:(/[A-Za-z0-9_-]{1,64}){1,8})$"
    ),
]


class ConversationRule(BaseModel):
    """Placeholders that hold for a conversation.

    `id`: where a call names its conversation, tried in order: `header:NAME`, `metadata:NAME` (of the body's
    `metadata`), `body:/pointer`. A call that names none has placeholders of its own. `ttl`: how long values are kept
    after the last use. `on_lost`: `refuse` a call whose store is away, or give it placeholders of its own (`per_call`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: tuple[ConversationSource, ...] = Field(default=("header:x-llmshield-conversation",), min_length=1)
    ttl: PositiveDuration = 3600.0
    on_lost: Literal["refuse", "per_call"] = "refuse"

    @field_validator("id", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


Scanned = Literal["system", "user", "assistant", "tool", "output"]


class PiiSettings(Settings):
    """`use: pii`. Without `entities`, every kind is replaced.

    `scan` names the roles whose texts are covered (`tool`: definitions, names, arguments, results; `output`: what
    the model writes); metadata fields are always covered. `hold_back`: characters that a stream may wait where no
    value has begun. `allow`: values that are never touched. `hash_key`: the key of `hash` and `fake`, `env://NAME` or
    text; without it, they are stable within one process only. `presidio`: false leaves presidio out even if installed. `names`: false
    leaves out persons, places and organisations, which take a millisecond for 500 characters. `conversation`: the same
    value has the same placeholder over the calls of a conversation.
    """

    entities: dict[str, EntityRule] = Field(default_factory=lambda: {"*": EntityRule()})
    restore: bool = True
    scan: tuple[Scanned, ...] = ("system", "user", "assistant", "tool", "output")
    hold_back: int = Field(default=64, ge=16, le=4096)
    recognisers: tuple[Recogniser, ...] = ()
    allow: tuple[str, ...] = ()
    hash_key: str | None = Field(default=None, min_length=1)
    presidio: bool = True
    names: bool = True
    conversation: ConversationRule | None = None

    @field_validator("entities", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`EMAIL_ADDRESS: replace` is short for `EMAIL_ADDRESS: {action: replace}`."""
        if not isinstance(value, dict):
            return value
        return {
            kind: ({"action": rule} if isinstance(rule, str) else rule or {}) for kind, rule in value.items()
        }

    @model_validator(mode="after")
    def _kinds_exist(self) -> PiiSettings:
        own = {recogniser.kind for recogniser in self.recognisers}
        for kind in self.entities:
            if kind == "*" or kind in own or kind in kinds.OWN | kinds.LISTED:
                continue
            if kind not in kinds.KNOWN:
                raise ValueError(_unknown(kind, own))
            if kind in kinds.NAMES:
                if not self.names or not kinds.numpy_installed():
                    raise ValueError(
                        f"entity {kind!r} needs `names: true` and numpy: install llmshield-sidecar[pii]"
                    )
                continue
            if not self.presidio or not kinds.presidio_installed():
                raise ValueError(f"entity {kind!r} needs presidio: install llmshield-sidecar[pii]")
        for recogniser in self.recognisers:
            for pattern in recogniser.patterns:
                if widest(pattern.regex) > self.hold_back:
                    raise ValueError(
                        f"pattern {pattern.name or recogniser.kind!r} can match more than hold_back={self.hold_back} characters; "
                        "bound its repetitions or raise hold_back"
                    )
            for term in recogniser.deny:
                if not term or len(term) > self.hold_back:
                    raise ValueError(
                        f"deny terms of {recogniser.kind!r} have 1 to hold_back={self.hold_back} characters"
                    )
        return self

    def rule(self, kind: str) -> EntityRule | None:
        """What to do with this kind, or None: nothing. `"*"` covers recognisers of one's own, not broad kinds."""
        found = self.entities.get(kind)
        return self.entities.get("*") if found is None and kind not in kinds.BROAD else found


def _unknown(kind: str, own: set[str]) -> str:
    near = difflib.get_close_matches(kind.upper(), [*kinds.KNOWN, *own, "*"], n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown entity {kind!r}{hint}"


def widest(regex: str) -> int:
    """The most characters that an expression can match; a very large number where it has no bound.

    The stdlib's parser knows widths and reads nearly all of re2's syntax; what it can't read counts as unbounded.
    """
    parser = _re_for_widths._parser  # type: ignore[attr-defined]
    try:
        return int(
            parser.parse(regex.replace(r"\z", r"\Z").replace(r"\pL", "x").replace(r"\pN", "x")).getwidth()[1]
        )
    except (_re_for_widths.error, OverflowError):
        return 1 << 30
