"""Whole replies of several providers for somebody to pick from, and questions of a plugin's own beside the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from llmshield import clock
from llmshield.attempts import Attempts, Prepared
from llmshield.call import Attempt, Call, Failure, Outcome
from llmshield.chain import run_step
from llmshield.channels import Stopped
from llmshield.conversation import Answered, Conversation, Message, TextPart
from llmshield.dialects import WholeReply
from llmshield.endings import Endings
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange
from llmshield.filtering import filter_pieces, open_channels
from llmshield.racing import (
    Candidate,
    TooFew,
    as_stream,
    collect,
    read_all_of,
    read_text,
    sum_of,
    together,
)
from llmshield.relay import ERROR_BODY, WHOLE_LIMIT, read_all, read_whole
from llmshield.replies import Replies, given_up
from llmshield.verdicts import Answer, Route, Target


class Gathering:
    """Asks without relaying."""

    def __init__(self, attempts: Attempts, endings: Endings, replies: Replies) -> None:
        self._attempts = attempts
        self._endings = endings
        self._replies = replies

    async def ask_all(self, x: Exchange, call: Call, route: Route) -> None:
        """Ask every target for a whole reply, let somebody pick, and answer with that."""

        async def ask(target: Target) -> Candidate:
            return await self._collect_once(x, call, target)

        try:
            candidates, missed = await collect(route.targets, ask, route.quorum)
        except TooFew as few:
            await self._last_word(x, call, route, few.failures)
            return
        chosen: Sequence[int] = [0]
        if route.pick is not None:
            chosen = await route.pick(candidates)
        picked = [candidates[index] for index in chosen if 0 <= index < len(candidates)] or candidates[:1]
        x.why = f"{route.why}; {len(candidates)} answered, {missed} failed"
        answers = [await self._filtered(x, candidate) for candidate in picked]
        best = picked[0]
        # The last one told in headers and record is the one that answered.
        x.attempts.remove(best.attempt)
        x.attempts.append(best.attempt)
        reply, translation = x.reply, best.prepared.translation
        assert reply is not None
        assert translation is not None
        reply.provider, reply.model = best.attempt.provider, best.reply.model or best.attempt.model
        reply.finish, reply.stream = best.reply.finish, call.stream
        reply.usage = sum_of([each.reply.usage for each in picked if each.reply.usage is not None])
        if call.stream:
            writer = translation.ends()[1]
            body = as_stream(together(answers), writer)
            head = {"content-type": writer.media_type, "cache-control": "no-cache"}
            await self._replies.send(x, 200, head, body)
            return
        await self._replies.send(x, 200, {}, translation.written(together(answers)))

    async def _last_word(self, x: Exchange, call: Call, route: Route, failures: list[UpstreamError]) -> None:
        """Too few have answered: an answer of the policy's own, or the error. Nobody is asked again."""
        last = x.attempts[-1]
        failed = failures[-1] if failures else UpstreamError("skipped", "Nobody could be asked.")
        failure = Failure(
            last, failed.reason, failed.status, failed.code, failed.retry_after_s, len(x.attempts), False,
            Route((Target(last.provider, last.model),), why=route.why), tuple(x.attempts),
        )  # fmt: skip
        assert x.chain is not None
        for step in x.chain.on_failure:
            verdict = await run_step(step, x.trail, call, failure)
            if isinstance(verdict, Answer):
                x.degraded = verdict.degraded
                await self._replies.answer(x, verdict)
                return
        raise given_up(failures or [failed], x)

    async def _filtered(self, x: Exchange, candidate: Candidate) -> Answered:
        """A reply behind the filters, in neutral words."""
        attempt, reply = candidate.attempt, candidate.reply
        channels = await open_channels(
            x, attempt, reply.model or attempt.model, streamed=False, status=attempt.status or 200
        )
        try:
            filter_pieces(reply.pieces, channels, attempt)
        except Stopped as stopped:
            raise stopped.block.error(stopped.plugin) from stopped
        assert candidate.prepared.translation is not None
        return candidate.prepared.translation.read(reply.tree)

    async def _collect_once(self, x: Exchange, call: Call, target: Target) -> Candidate:
        """One attempt whose whole reply is for somebody to judge."""
        attempt = self._attempt(x, call, target)
        async with self._ended(x, attempt):
            prepared = await self._attempts.prepare(x, call, attempt, own_key=False, whole=True)
            reply = await self._reply_of(x, attempt, prepared)
        assert prepared.translation is not None
        text = read_all_of(prepared.translation.read(reply.tree))
        return Candidate(attempt, prepared, reply, target, text)

    async def _reply_of(self, x: Exchange, attempt: Attempt, prepared: Prepared) -> WholeReply:
        """Send a prepared attempt and read its whole reply. Raises: UpstreamError."""
        self._attempts.simulate(x, attempt)
        attempt.sent = True
        asked_at = clock.monotonic()
        upstream = await prepared.transport.ask(prepared.request, prepared.timeouts)
        try:
            attempt.status = upstream.status
            if not 200 <= upstream.status < 300 or upstream.status in {204, 205}:
                body = await read_all(upstream, ERROR_BODY)
                raise prepared.dialect.read_error(upstream.status, upstream.headers, body)
            reply: WholeReply = read_whole(
                prepared.dialect, prepared.call, await read_all(upstream, WHOLE_LIMIT), upstream.status
            )
        except BaseException:
            upstream.close()
            raise
        finally:
            x.upstream_s += clock.monotonic() - asked_at
        attempt.usage = reply.usage
        attempt.first_token_at = clock.monotonic()
        if reply.error is not None:
            raise reply.error
        return reply

    async def ask_aside(
        self, x: Exchange, call: Call, target: Target, prompt: str, system: str, max_tokens: int
    ) -> str:
        """Ask something of a plugin's own; the words of the reply. Guarded and paid like any attempt.

        Raises: UpstreamError when it fails, CallError of a guard.
        """
        messages = [Message("system", [TextPart(system)])] if system else []
        messages.append(Message("user", [TextPart(prompt)]))
        conversation = Conversation(target.model or call.model, messages, max_tokens=max_tokens)
        attempt = self._attempt(x, call, target)
        async with self._ended(x, attempt):
            prepared = await self._attempts.prepare_aside(x, call, attempt, conversation)
            reply = await self._reply_of(x, attempt, prepared)
        x.attempts.remove(attempt)  # behind those that are the answer
        x.attempts.insert(0, attempt)
        assert prepared.translation is not None
        return read_text(prepared.translation.read(reply.tree))

    @asynccontextmanager
    async def _ended(self, x: Exchange, attempt: Attempt) -> AsyncIterator[None]:
        """Whatever happens inside, the attempt ends once, with what came of it."""
        outcome: Outcome = "failed"
        try:
            yield
            outcome = "ok"
        except UpstreamError as error:
            attempt.reason, attempt.status, attempt.code = error.reason, error.status, error.code
            attempt.retry_after_s = error.retry_after_s
            if error.reason == "connect":
                attempt.sent = False
            if error.reason in {"skipped", "circuit_open", "key"}:
                outcome = "skipped"
            raise
        except CallError:
            outcome = "blocked"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            await self._endings.end_attempt(attempt, outcome)

    @staticmethod
    def _attempt(x: Exchange, call: Call, target: Target) -> Attempt:
        attempt = Attempt(
            call, number=len(x.attempts) + 1, provider=target.provider, model=target.model or call.model,
            dialect=call.dialect, body={},
        )  # fmt: skip
        attempt.started_at = clock.monotonic()
        x.attempts.append(attempt)
        return attempt
