"""What the admin port says when it can't do something: problem details (RFC 9457) with a code that stays.

`code` is for programs, `detail` for people. A detail says what was found, where, what was expected and what to do; no
key, token or text of a call is ever in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import orjson
from pydantic import Field

from llmshield.admin.shapes import Shape
from llmshield.redact import redact

MEDIA_TYPE = "application/problem+json"

Code: TypeAlias = Literal[
    "bad_request",
    "invalid",
    "unauthenticated",
    "forbidden",
    "cross_site",
    "wrong_host",
    "not_found",
    "method_not_allowed",
    "conflict",
    "client_timeout",
    "too_large",
    "unsupported_media",
    "too_many_attempts",
    "internal",
    "unavailable",
]


class Kind(NamedTuple):
    """What a code means."""

    status: int
    title: str


KINDS: Mapping[Code, Kind] = {
    "bad_request": Kind(400, "The request can't be read."),
    "invalid": Kind(422, "A value of the request is not what was expected."),
    "unauthenticated": Kind(401, "The request has no credential, or not a good one."),
    "forbidden": Kind(403, "The credential's role does not allow this."),
    "cross_site": Kind(403, "Another site's page may not ask this."),
    "wrong_host": Kind(421, "The Host header names none of this port's names."),
    "not_found": Kind(404, "There is no such thing."),
    "method_not_allowed": Kind(405, "This path is not served with this method."),
    "conflict": Kind(409, "The request does not fit what is there."),
    "client_timeout": Kind(408, "The request did not arrive in time."),
    "too_large": Kind(413, "The request is too large."),
    "unsupported_media": Kind(415, "The request's content type can't be read."),
    "too_many_attempts": Kind(429, "Too many wrong credentials came from this address."),
    "internal": Kind(500, "The gateway failed."),
    "unavailable": Kind(503, "What this needs can't be reached now."),
}
"""Every code with its status. A code is never renamed or given another meaning."""


class Flaw(Shape):
    """One value that is not what was expected."""

    place: Literal["path", "query", "body"] = Field(description="Which part of the request it is in.")
    at: str = Field(description="Where in it: a name, or a path such as `timeout.total`.")
    message: str = Field(description="What was found and what was expected.")


class ProblemDetails(Shape):
    """Problem details (RFC 9457)."""

    type: str = Field(description="`urn:llmshield:problem:` and the code.")
    title: str = Field(description="What the code means.")
    status: int = Field(description="The status of the answer.")
    detail: str = Field(description="What was found, what was expected and what to do.")
    code: Code = Field(description="For programs; it stays.")
    errors: tuple[Flaw, ...] = Field(default=(), description="Of `invalid`: every value, with its place.")


class Problem(Exception):
    """Ends a request with these details."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[Flaw] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code: Code = code
        self.detail = redact(detail)
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The status of the answer."""
        return KINDS[self.code].status

    def body(self) -> bytes:
        """The answer's body."""
        made = ProblemDetails(
            type=f"urn:llmshield:problem:{self.code}",
            title=KINDS[self.code].title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            errors=self.errors,
        )
        return orjson.dumps(made.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_INDENT_2)
