"""`apps:`, `audit:`: other programs' JSON, and where the record goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from llmshield.policy.globs import Matcher, compile_globs
from llmshield.policy.section import Flag, Section
from llmshield.policy.server import PathGlob
from llmshield.policy.units import Duration, Size

Pointer: TypeAlias = Annotated[
    str, StringConstraints(strict=True, pattern=r"^(/([^~/]|~0|~1)*)+$", max_length=500)
]
"""A JSON pointer (RFC 6901); a step `*` is every item or member."""


class AppTexts(Section):
    """Where the texts are in an application's own JSON."""

    request: tuple[Pointer, ...] = Field(default=(), description="In the request.")
    reply: tuple[Pointer, ...] = Field(default=(), description="In the whole reply.")
    stream: tuple[Pointer, ...] = Field(default=(), description="In each event of a streamed reply.")


class App(Section):
    """JSON of the wrapped application's own, for the middleware."""

    paths: tuple[PathGlob, ...] = Field(min_length=1, description="Paths that speak it, with wildcards.")
    texts: AppTexts = Field(description="Where its texts are.")

    def matches(self, path: str) -> bool:
        """Whether `path` speaks this JSON."""
        return self._matcher(path)

    @property
    def _matcher(self) -> Matcher:
        return compile_globs(self.paths)


class Rotation(Section):
    """When a segment of the record is closed and the next one begun."""

    size: Size = Field(default=256 * 2**20, description="At this many bytes.")
    every: Literal["day", "never"] = Field(
        default="day", description="With the day (UTC), or at its size only."
    )


class Audit(Section):
    """Where the record of decisions goes."""

    sink: Annotated[str, StringConstraints(strict=True, pattern=r"^(file://\S+|stdout|stderr|none)$")] = (
        Field(default="none", description="`file://path`, `stdout`, `stderr` or `none`.")
    )
    content: Literal["none", "hash", "redacted", "sealed"] = Field(
        default="none",
        description="What is kept of texts: nothing, keyed hashes, the texts as the provider saw them, or those sealed.",
    )
    chain: Literal["sha256"] = Field(
        default="sha256", description="How records are chained, so that changes show."
    )
    required: Flag = Field(
        default=False, description="Ask nobody and answer nothing before its record is on the disk."
    )
    rotate: Rotation = Field(default=Rotation(), description="When a segment is closed.")
    retention: Duration = Field(
        default=183 * 86_400.0, description="How long closed segments are kept; `0s`: for ever."
    )
    anchor_to: Annotated[
        str | None, StringConstraints(strict=True, pattern=r"^(file://\S+|https?://\S+|log)$")
    ] = Field(
        default=None,
        description="Where the chain's end is told each minute, beside the file: `file://path`, an address, or `log`.",
    )

    def findings(self, *, edits: bool) -> Iterator[tuple[str, str, str, str]]:
        """What is wrong with this section, as (code, key, message, hint); `edits`: the policy uses `pii`."""
        if self.required and not self.sink.startswith("file://"):
            said = f"`required: true` needs a record on a disk; the sink is {self.sink!r}"
            yield "LS207", "required", said, "write `sink: file://audit.jsonl`"
        if self.content == "redacted" and not edits:
            said = "`content: redacted` keeps texts as plugins have edited them, and no `pii` edits them here"
            yield "LS207", "content", said, "add `- use: pii`, or write sealed or hash"
        if self.content != "none" and self.sink == "none":
            yield (
                "LS319",
                "content",
                "`content` has no effect: the sink is none",
                "write `sink: file://audit.jsonl`",
            )
