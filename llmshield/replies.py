"""What goes back to a client: whole answers, texts of our own, errors in its dialect, and our headers on all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from llmshield import clock
from llmshield.call import Reply, Usage
from llmshield.chain import Took
from llmshield.dialects import WireReply
from llmshield.dialects._tree import dump
from llmshield.errors import CallError, ErrorKind, UpstreamError
from llmshield.exchange import Exchange
from llmshield.headers import add_own, client_headers, content_type
from llmshield.traffic import Dialects
from llmshield.verdicts import Answer

_PASSED_ON = frozenset(range(400, 500)) - {401, 403, 407, 408}
"""Statuses of a provider that say something about the call: the client gets them as the provider wrote them.
401 and 403 join them when it was the client's own key that the provider refused, or a wrapped app's own client."""


_SOON = 5.0
"""Seconds after which a client may look again when nobody can answer, at the latest. SDKs sleep for as long as they are
told, up to a minute, and that twice: a program would stand still for two minutes where its next call may already
find another provider. What comes too early is answered from memory and asks nobody."""

_ADVICE = frozenset({"retry-after", "retry-after-ms", "x-should-retry"})

_KINDS: dict[int, ErrorKind] = {
    401: "unauthenticated", 403: "forbidden", 404: "not_found", 409: "conflict", 413: "too_large", 429: "rate_limited"
}  # fmt: skip
"""What a status of a provider means in our own words."""


class Replies:
    """Writes answers under one policy. `policy_tag` is the short hash that every answer carries."""

    def __init__(self, dialects: Dialects, policy_tag: str, *, debug: bool) -> None:
        self._dialects = dialects
        self._policy_tag = policy_tag
        self._debug = debug

    async def send(
        self, x: Exchange, status: int, headers: Mapping[str, str], body: bytes, *, end: bool = True
    ) -> None:
        x.status = status
        head = self.head(x, dict(headers))
        head.setdefault("content-type", "application/json")
        head["content-length"] = str(len(body))
        x.first_byte_at = clock.monotonic()
        await x.client.start(status, head)
        if body and x.method != "HEAD":
            await x.client.send(body)
        if end:
            await x.client.end()

    async def send_bare(self, x: Exchange, status: int) -> None:
        """The head of an answer that has no body."""
        x.status = status
        x.first_byte_at = clock.monotonic()
        await x.client.start(status, self.head(x, {} if status in {204, 304} else {"content-length": "0"}))

    async def answer(self, x: Exchange, answer: Answer) -> None:
        """A text of our own in the client's dialect, whole or streamed as the client asked."""
        assert x.call is not None
        assert x.dialect is not None
        x.reply = x.reply or Reply(
            provider="llmshield",
            model=answer.model or x.call.model,
            dialect=x.dialect.name,
            stream=x.call.stream,
        )
        x.reply.usage = Usage(input=0, output=0)
        x.reply.cached = answer.cached
        if x.call.stream:
            body = x.dialect.answer_stream(x.call, answer)
            kind = x.dialect.open_stream(x.call).media_type
            await self.send(x, 200, {"content-type": kind, "cache-control": "no-cache"}, body)
        else:
            await self.send(x, 200, {}, dump(x.dialect.answer(x.call, answer)))

    async def refuse(self, x: Exchange, error: CallError) -> None:
        """Write an error in the client's dialect; a stream under way ends with its error event."""
        x.error = error
        if x.client.started:
            x.broken = True
            if x.codec is None:  # bytes that nobody reads have no words for an error: only a cut shows it
                x.client.cut()
                return
            await x.client.send(x.codec.abort(error, x.id))
            await x.client.end()
            return
        dialect = x.dialect or self._dialects.for_errors(x.path, x.headers)
        reply = _upstream_reply(error) or dialect.write_error(error, x.id)
        try:
            await self.send(x, reply.status, reply.headers, reply.body)
        except CallError as unrecorded:  # not even the refusal: that is what the client is told
            x.error = unrecorded
            reply = dialect.write_error(unrecorded, x.id)
            await self.send(x, reply.status, reply.headers, reply.body)

    def translate(self, x: Exchange, failure: UpstreamError) -> None:
        """Put a provider's error answer in another dialect, or in none, into words that the client's own would have used."""
        kind = _KINDS.get(
            failure.status or 0, "bad_request" if (failure.status or 500) < 500 else "upstream_error"
        )
        said = f" ({failure.code})" if failure.code else ""
        error = CallError(kind, f"The provider refused the call{said}.", status=failure.status)
        assert x.dialect is not None
        written = x.dialect.write_error(error, x.id)
        kept = {name: value for name, value in failure.headers.items() if name in _ADVICE}
        failure.body, failure.headers = written.body, {**kept, "content-type": "application/json"}

    def head(self, x: Exchange, headers: dict[str, str]) -> dict[str, str]:
        """The headers of an answer with ours (`x-llmshield-*`) and those of plugins."""
        headers["x-llmshield-request-id"] = x.id
        headers["x-llmshield-action"] = x.action
        headers["x-llmshield-policy"] = self._policy_tag
        if x.attempts:
            last = x.attempts[-1]
            headers["x-llmshield-provider"] = last.provider
            headers["x-llmshield-attempts"] = str(len(x.attempts))
            if x.reply is not None:
                headers["x-llmshield-model"] = _header_safe(x.reply.model)
        if x.degraded:
            headers["x-llmshield-degraded"] = "true"
        cost = x.cost_picousd
        if cost is not None and x.reply is not None and not x.reply.stream:
            headers["x-llmshield-cost"] = f"{cost // 10**12}.{cost % 10**12:012d} USD"
        overhead = clock.monotonic() - x.started_at - x.upstream_s
        if x.reply is None or not x.reply.stream:
            headers["x-llmshield-overhead-ms"] = f"{overhead * 1000:.1f}"
        if self._debug:
            headers["x-llmshield-plugins"] = ", ".join(_debug(took) for took in x.trail.took)
        if x.call is not None and x.call.response_headers:
            add_own(headers, x.call.response_headers)
        return headers


def given_up(failures: list[UpstreamError], x: Exchange) -> CallError:
    """The error for a client after the last failure.

    What a provider says about the call itself (a 4xx) is passed on, the first target's before a fallback's:
    a plain error is never masked by the fallback's own rejection. Else: timeouts are 504, the rest 503."""
    real = [failure for failure in failures if failure.reason not in {"skipped", "circuit_open", "key"}]
    for failure in real:
        if failure.status is None or not (failure.body or failure.from_app):
            continue
        own = failure.status in {401, 403} and (x.own_key or failure.from_app)
        if failure.status in _PASSED_ON or own:
            return _PassedOn(failure)
    if clock.monotonic() >= x.deadline:
        limit = x.deadline - x.started_at
        return CallError(
            "upstream_timeout",
            f"No provider answered within {limit:g} s, the limit of a call ({len(real)} tried).",
        )
    if real and all(failure.reason in {"first_token", "idle", "total"} for failure in real):
        return CallError("upstream_timeout", "No provider answered in time.")
    if failures and all(failure.reason == "key" for failure in failures):
        return CallError("no_provider", str(failures[0]))
    if not real and all(failure.reason == "skipped" and failure.code == "model" for failure in failures):
        return CallError(
            "model_denied", "No provider of this route may be asked for this model.", param="model"
        )
    if not real:
        refusals = [failure.refusal for failure in failures if failure.refusal is not None]
        if refusals and (len(refusals) == len(failures) or refusals[0].kind != "bad_request"):
            return refusals[0]  # that a call can't be told is no reason where another target may come back
        if any(failure.code == "region" for failure in failures):
            return CallError("no_provider", "No provider of this route's regions can be asked.")
    waits = [failure.retry_after_s for failure in failures if failure.retry_after_s]
    return CallError(
        "no_provider",
        f"No provider could answer ({len(real)} tried).",
        retry_after_s=min(*waits, _SOON) if waits else 1.0,
    )


class _PassedOn(CallError):
    """A provider's own error answer, scrubbed of keys, on its way to the client."""

    def __init__(self, failure: UpstreamError) -> None:
        super().__init__("upstream_error", str(failure), status=failure.status, code=failure.code)
        self.failure = failure


def _upstream_reply(error: CallError) -> WireReply | None:
    if not isinstance(error, _PassedOn):
        return None
    failure = error.failure
    assert failure.status is not None
    headers = client_headers(failure.headers)
    headers["content-type"] = content_type(failure.headers, "application/json")
    return WireReply(failure.status, headers, failure.body)


@lru_cache(1024)
def _header_safe(value: str) -> str:
    """A model name as a header value: printable ASCII, bounded."""
    return "".join(c if " " < c < "\x7f" else "?" for c in value[:128])


def _debug(took: Took) -> str:
    score = max((f.score for f in took.findings if f.score is not None), default=None)
    count = sum(f.count for f in took.findings)
    parts = [took.plugin, took.action]
    if count:
        parts.append(f"n={count}")
    if score is not None:
        parts.append(f"score={score:.2f}")
    parts.append(f"{took.ms:.1f}ms")
    return ";".join(parts)
