"""`apps:`, `audit:`: other programs' JSON, and where the record goes."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from llmshield.policy.globs import Matcher, compile_globs
from llmshield.policy.section import Flag, Section
from llmshield.policy.server import PathGlob

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


class Audit(Section):
    """Where the record of decisions goes."""

    sink: Annotated[str, StringConstraints(strict=True, pattern=r"^(file://\S+|stdout|stderr|none)$")] = (
        Field(default="none", description="`file://path`, `stdout`, `stderr` or `none`.")
    )
    content: Literal["none", "masked", "full"] = Field(default="none", description="Which texts stand in it.")
    chain: Literal["sha256", "none"] = Field(
        default="sha256", description="How records are chained, so that changes show."
    )
    required: Flag = Field(default=False, description="Refuse calls that can't be recorded.")
