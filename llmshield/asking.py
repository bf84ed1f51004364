"""Asking providers: the loop over attempts, one attempt, and the bytes that pass unread.

ask_with_failover > ask_once > prepare, guards, transport, relay. Every attempt that begins here ends here, exactly
once, whatever happens in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from llmshield import clock
from llmshield.attempts import Attempts, Prepared
from llmshield.call import Attempt, Call, Failure, Outcome
from llmshield.chain import run_step
from llmshield.channels import Stopped
from llmshield.dialects import Dialect, StreamCodec
from llmshield.dialects._plain_text import PlainText, Words
from llmshield.dialects._tree import dump, load_reply
from llmshield.endings import Endings
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.filtering import open_channels
from llmshield.gathering import Gathering
from llmshield.headers import client_headers, content_type, remaining
from llmshield.policy.providers import APP
from llmshield.racing import Fallen, race
from llmshield.relay import DRAIN_S, ERROR_BODY, broken, drain, read_all, refuse_whole, stream, whole
from llmshield.replies import Replies, given_up
from llmshield.resuming import ResumedCodec, Resumption
from llmshield.translation import Translation
from llmshield.verdicts import Answer, Route, Target

_MAX_ATTEMPTS = 32
"""Attempts of one call, whatever the plugins say: a loop of two plugins must end."""
_UNSENT = frozenset({"skipped", "circuit_open", "key"})
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson", "application/jsonl", ""})
"""Content types of streams; a missing one is judged by its events."""


class Asking:
    """Asks providers under one policy."""

    def __init__(
        self,
        attempts: Attempts,
        endings: Endings,
        replies: Replies,
    ) -> None:
        self._attempts = attempts
        self._gathering = Gathering(attempts, endings, replies)
        self._endings = endings
        self._replies = replies

    def lend(self, x: Exchange, call: Call) -> None:
        """From here on plugins may ask something of their own: every guard of attempts hangs on the call."""
        call._ask = partial(self._gathering.ask_aside, x, call)

    async def ask_with_failover(self, x: Exchange, call: Call, route: Route) -> None:
        """Walk targets until one has answered; on_failure says whom to ask next."""
        tries: dict[tuple[str, str], int] = {}
        failures: list[UpstreamError] = []
        if not route.targets:
            raise CallError("no_provider", f"The route leaves nobody to ask ({route.why}).")
        target = route.targets[0]
        x.deadline = x.started_at + self._attempts.call_s
        if call._ask is None:
            self.lend(x, call)
        if route.mode == "all":
            await self._gathering.ask_all(x, call, route)
            return
        if route.after and route.mode == "first":
            await clock.sleep(min(route.after, 60.0))
        own = _owner(x, route)
        while True:
            try:
                if route.mode != "first" and not failures:
                    fallen = await self._race(x, call, route, own)
                    if not fallen:
                        return
                else:
                    await self.ask_once(x, call, target, own_key=target.provider == own)
                    return
            except UpstreamError as error:
                fallen = [(x.failed or x.attempts[-1], error)]
            except CallError:
                if not (x.client.started and failures):
                    raise
                await self._break_off(x, failures)  # a guard of attempts lets nobody go on with it
                return
            for attempt, failed in fallen:
                failed.let_go()
                failures.append(failed)
                here = (attempt.provider, attempt.model)
                tries[here] = tries.get(here, 0) + 1
            attempt, failed = fallen[-1]
            if x.client.started and attempt.sent and not self._may_go_on(x):
                await self._break_off(x, failures)
                return
            failure = Failure(
                attempt, failed.reason, failed.status, failed.code, failed.retry_after_s,
                tries[attempt.provider, attempt.model], x.client.started, route, tuple(x.attempts),
                x.deadline - clock.monotonic(),
            )  # fmt: skip
            verdict = None
            assert x.chain is not None
            for step in x.chain.on_failure:
                verdict = await run_step(step, x.trail, call, failure)
                if verdict is not None:
                    break
            late = isinstance(verdict, Route) and verdict.after >= x.deadline - clock.monotonic()
            goes_on = isinstance(verdict, Route) and len(x.attempts) < _MAX_ATTEMPTS and not late
            if x.client.started and not goes_on:
                await self._break_off(x, failures)
                return
            if isinstance(verdict, Answer):
                x.degraded = verdict.degraded
                await self._replies.answer(x, verdict)
                return
            if not isinstance(verdict, Route) or not goes_on:
                raise given_up(failures, x)
            if verdict.after > 0:
                await clock.sleep(min(verdict.after, 60.0))
            target = verdict.targets[0]

    async def _race(self, x: Exchange, call: Call, route: Route, own: str) -> list[Fallen]:
        def ask(target: Target) -> Coroutine[Any, Any, None]:
            return self.ask_once(x, call, target, own_key=target.provider == own)

        targets = route.targets[:2] if route.mode == "hedge" else route.targets
        after_s = route.after if route.mode == "hedge" else 0.0
        return await race(x, targets, after_s, ask, route.at_hedge or _yes)

    def _may_go_on(self, x: Exchange) -> bool:
        """A stream broke behind its first output: note how somebody else could take it over, if anybody can."""
        assert x.shadow is not None  # else it has ended with its error where it broke
        assert x.channels is not None
        x.resumption = Resumption.of(x.shadow, x.channels)
        return x.resumption is not None

    async def _break_off(self, x: Exchange, failures: list[UpstreamError]) -> None:
        """Nobody goes on with a stream that broke: end it with the error of the first break, never with another
        provider's refusal to take it over."""
        failure = next((each for each in failures if each.reason not in _UNSENT), failures[-1])
        x.broken, x.error = True, broken(failure)
        assert x.codec is not None
        await x.client.send(x.codec.abort(x.error, x.id))
        await x.client.end()

    async def ask_once(self, x: Exchange, call: Call, target: Target, *, own_key: bool) -> None:
        """One attempt, from its guards to its end. Raises: UpstreamError when it failed unseen by the client."""
        model = target.model or call.model
        assert x.dialect is not None
        dialect = x.dialect
        attempt = Attempt(
            call,
            number=len(x.attempts) + 1,
            provider=target.provider,
            model=model,
            dialect=dialect.name,
            body={},
        )
        attempt.started_at = clock.monotonic()
        x.attempts.append(attempt)
        outcome: Outcome = "failed"
        prepared: Prepared | None = None
        try:
            prepared = await self._attempts.prepare(x, call, attempt, own_key=own_key)
            if x.floor is None:
                x.asked_at = clock.monotonic()
            try:
                await self._exchange_with(x, attempt, prepared)
            finally:
                x.waited()
            outcome = "blocked" if x.stopped else "failed" if x.broken else "ok"
        except UpstreamError as error:
            x.failed = attempt
            if x.floor is not None:
                x.floor.fallen.append((attempt, error))
            attempt.reason, attempt.code = error.reason, error.code
            if attempt.status != 200 or error.status is None or not _begun(attempt):
                attempt.status = (
                    error.status
                )  # else an error object behind the beginning of an answer, which is billed
            attempt.retry_after_s = error.retry_after_s
            if error.reason == "connect":
                attempt.sent = False
            if prepared is not None and not error.from_app and _is_foreign(error, prepared):
                self._replies.translate(x, error)
            if error.reason in _UNSENT:
                outcome = "skipped"
            raise
        except CallError as error:
            if x.floor is not None:
                x.floor.fallen.append((attempt, error))
            outcome = "blocked"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            if attempt.outcome is None:
                await self._endings.end_attempt(attempt, outcome)
        await x.client.end()

    async def _exchange_with(self, x: Exchange, attempt: Attempt, prepared: Prepared) -> None:
        """Send, judge the head, relay the body. Raises: UpstreamError, CallError."""
        dialect, call, translation = prepared.dialect, prepared.call, prepared.translation
        self._attempts.simulate(x, attempt)
        attempt.sent = True
        upstream = await prepared.transport.ask(prepared.request, prepared.timeouts)
        try:
            attempt.status = upstream.status
            left = remaining(upstream.headers)
            if left is not None:
                x.remaining[attempt.provider] = left
            if attempt.provider == APP and _bodiless(upstream, dialect):
                await read_all(upstream, ERROR_BODY)
                await self._replies.send_bare(x, upstream.status)
                return
            if not 200 <= upstream.status < 300 or upstream.status in {204, 205}:
                body = await read_all(upstream, ERROR_BODY)
                if upstream.status < 400:
                    raise UpstreamError(
                        "malformed", f"The provider answered {upstream.status}.", status=upstream.status
                    )
                error = dialect.read_error(upstream.status, upstream.headers, body)
                error.from_app = attempt.provider == APP
                raise error
            kind = upstream.headers.get("content-type", "").partition(";")[0].strip().lower()
            if call.operation == "models":
                if "json" not in kind:
                    raise UpstreamError("malformed", "The provider's answer is not JSON.")
                data = await read_all(upstream, ERROR_BODY * 8)
                await self._replies.send(
                    x,
                    upstream.status,
                    client_headers(upstream.headers, prepared.reply_headers),
                    data,
                    end=False,
                )
                return
            plain = dialect.plain_text(upstream.headers) if attempt.provider == APP else None
            if plain is not None and not plain.has_length:
                await self._relay_stream(x, attempt, upstream, plain.stream(), prepared)
                return
            if not call.stream or plain is not None:
                await self._relay_whole(x, attempt, upstream, prepared, plain)
                return
            codec = dialect.open_stream(call)
            if kind == codec.media_type or kind in _STREAMS:
                if translation is not None:
                    codec = self._back(x, codec, translation)
                await self._relay_stream(x, attempt, upstream, codec, prepared)
            elif attempt.provider == APP:  # an application decides by itself when it streams
                await self._relay_whole(x, attempt, upstream, prepared)
            else:
                await refuse_whole(call, dialect, upstream)
        except BaseException:
            upstream.close()
            raise

    @staticmethod
    def _back(x: Exchange, codec: StreamCodec, translation: Translation) -> StreamCodec:
        """The way back to the client, from its beginning or from where the answer broke."""
        if x.resumption is None:
            return translation.codec(codec)
        return ResumedCodec(codec, *translation.ends(), x.resumption)

    async def _relay_whole(
        self,
        x: Exchange,
        attempt: Attempt,
        upstream: Any,
        prepared: Prepared,
        plain: PlainText | None = None,
    ) -> None:
        try:
            tree = await whole(x, attempt, upstream, prepared.dialect, prepared.call, plain)
        except Stopped as stopped:
            raise stopped.block.error(stopped.plugin) from stopped
        await self._endings.end_attempt(attempt, "ok")  # before the head: it carries the cost
        if prepared.translation is not None:
            await self._replies.send(x, 200, {}, prepared.translation.answer(tree), end=False)
            return
        head = client_headers(upstream.headers, prepared.reply_headers)
        if plain is not None and type(tree) is Words:
            head["content-type"] = content_type(upstream.headers, "text/plain")
            await self._replies.send(x, upstream.status, head, plain.write(tree[0]), end=False)
            return
        await self._replies.send(x, upstream.status, head, dump(tree), end=False)

    async def _relay_stream(
        self, x: Exchange, attempt: Attempt, upstream: Any, codec: StreamCodec, prepared: Prepared
    ) -> None:
        if x.resumption is not None and x.channels is not None:
            channels, shadow = x.channels, x.shadow
            x.codec = codec
            if x.reply is not None:
                x.reply.provider, x.reply.attempts = attempt.provider, len(x.attempts)
        else:
            channels = await open_channels(x, attempt, attempt.model, streamed=True, status=upstream.status)
            shadow = self._attempts.shadow(x, codec)

        async def begin() -> None:
            if x.floor is not None:
                x.floor.claim(attempt, x.attempts)
                assert x.reply is not None
                x.reply.provider, x.reply.model = attempt.provider, codec.model or attempt.model
            x.shadow, x.channels = shadow, channels if shadow is not None else None
            head = {"content-type": codec.media_type}
            if prepared.translation is None:
                head = client_headers(upstream.headers, prepared.reply_headers)
                head["content-type"] = content_type(upstream.headers, codec.media_type)
            head["cache-control"] = "no-cache"
            x.first_byte_at = clock.monotonic()
            x.status = upstream.status
            await x.client.start(upstream.status, self._replies.head(x, head))
            x.codec = codec

        ending = await stream(x, attempt, upstream, codec, channels, begin, prepared.timeouts.idle, shadow)
        x.stopped, x.broken = ending == "stopped", ending == "broken"
        if ending != "complete" or not codec.ended:
            upstream.close()
        else:
            app_s = prepared.timeouts.total if attempt.provider == APP else DRAIN_S
            self._endings.spawn(drain(upstream, app_s))


def _bodiless(upstream: Any, dialect: Dialect) -> bool:
    """Whether an app's answer says all it has to say by its head: a redirect (to the path without a slash at its end), and
    where its JSON is its own, 204 or 202 without a body."""
    status: int = upstream.status
    if 300 <= status < 400:
        return True
    empty: bool = upstream.headers.get("content-length") == "0"
    return dialect.family == APP and (status in {204, 205} or (empty and status < 300))


def _is_foreign(error: UpstreamError, prepared: Prepared) -> bool:
    """Whether a provider's refusal is in words that the client's SDK would not read: another dialect's, the page of a proxy
    in front of it, or none."""
    if prepared.translation is not None:
        return bool(error.body)
    if (error.status or 0) < 400:
        return False
    try:
        return not isinstance(load_reply(error.body), dict | list)
    except ValueError:
        return True


def _yes() -> bool:
    return True


def _owner(x: Exchange, route: Route) -> str:
    """The provider that may be asked with the client's own key: the first one that the policy's route names, however
    a strategy has ordered it; of a plugin's own route, its first."""
    if route.targets is not x.to and all(target in x.to for target in route.targets):
        return x.to[0].provider
    return route.targets[0].provider


def _begun(attempt: Attempt) -> bool:
    """Whether the provider has said or counted anything."""
    return attempt.output_chars > 0 or attempt.usage is not None
