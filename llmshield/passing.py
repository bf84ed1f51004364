"""Traffic that the policy lets pass unread: rate limits and money hold, guards see nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from llmshield import clock
from llmshield.attempts import Attempts, timeouts_of
from llmshield.call import Attempt, Call, Outcome
from llmshield.dialects import WireRequest
from llmshield.dialects._wire import without_credentials
from llmshield.endings import Endings
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.headers import client_headers, content_type, upstream_headers
from llmshield.policy import Policy
from llmshield.policy.providers import APP
from llmshield.provider_keys import Keys
from llmshield.redact import redact_foreign
from llmshield.relay import ERROR_BODY, read_all
from llmshield.replies import Replies, given_up
from llmshield.transport import Transport


class Passing:
    """Hands bytes to the first provider of a family and back, under the same guards of attempts as any call."""

    def __init__(
        self,
        policy: Policy,
        transports: Mapping[str, Transport],
        keys: Keys,
        endings: Endings,
        replies: Replies,
        attempts: Attempts,
    ) -> None:
        self._policy = policy
        self._transports = transports
        self._keys = keys
        self._endings = endings
        self._replies = replies
        self._attempts = attempts

    async def pass_through(self, x: Exchange, call: Call, body: bytes) -> None:
        """Send a request on unread: rate limits and money hold, guards see nothing."""
        assert x.dialect is not None
        dialect = x.dialect
        names = [p.name for p in self._policy.providers.values() if p.dialect == dialect.family]
        if APP in x.incoming.local:
            names = [APP]
        if x.incoming.origin is not None:
            names = [x.incoming.origin.provider]
        if not names:
            raise CallError("no_provider", f"The policy has no provider that speaks {dialect.family!r}.")
        attempt = Attempt(call, number=1, provider=names[0], model="", dialect=dialect.name, body={})
        attempt.started_at = clock.monotonic()
        attempt.input_bytes = len(body)
        attempt.unseen = tuple(call.unseen)
        x.attempts.append(attempt)
        outcome: Outcome = "failed"
        try:
            await self._attempts.run_guards(x, call, attempt, dialect)
            await self._pass_bytes(x, call, attempt, body)
            outcome = "ok"
        except UpstreamError as error:
            attempt.reason = error.reason
            raise given_up([error], x) from error
        except CallError:
            outcome = "blocked"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            await self._endings.end_attempt(attempt, outcome)

    async def _pass_bytes(self, x: Exchange, call: Call, attempt: Attempt, body: bytes) -> None:
        name = attempt.provider
        transport = x.incoming.local[APP] if name == APP else self._transports[name]
        provider = self._policy.providers.get(name)
        assert x.dialect is not None
        assert x.caller is not None
        key = self._keys.get(name) or x.caller.key
        headers = upstream_headers(x.headers, own_key=self._keys.get(name) is None)
        for field in ("content-type", "content-encoding"):
            if field in x.headers:
                headers[field] = x.headers[field]
            else:
                headers.pop(field, None)
        if key is not None:
            headers.update(x.dialect.credentials(key))
        path, query = call.path, call.query
        if name != APP:
            path, query = _below_base(path, call.family), without_credentials(query)
        if x.witness is not None:
            await x.witness.ask(x)
        attempt.sent = True
        upstream = await transport.ask(
            WireRequest(x.method, path, query, headers, body), timeouts_of(provider, streamed=True)
        )
        try:
            attempt.status = x.status = upstream.status
            head = client_headers(
                upstream.headers, provider.reply_headers if provider is not None else frozenset()
            )
            if "content-type" in upstream.headers:
                head["content-type"] = content_type(upstream.headers, "application/octet-stream")
            upstream.idle_after(timeouts_of(provider, streamed=True).idle)
            if upstream.status >= 400:  # providers quote the key that they refuse
                error = redact_foreign((await read_all(upstream, ERROR_BODY)).decode("latin-1"))
                await self._replies.send(x, upstream.status, head, error.encode("latin-1"))
                return
            await x.client.start(upstream.status, self._replies.head(x, head))
            while data := await upstream.chunk():
                await x.client.send(data)
            await x.client.end()
        except BaseException:
            upstream.close()
            raise


def _below_base(path: str, family: str) -> str:
    """The path below a provider's base_url: an OpenAI one ends in /v1 itself.

    It always starts with a slash: `/v1@host/` cut to `@host/` would make the provider's address a user name.
    """
    return path[3:] if family == "openai" and path.startswith("/v1/") else path
