"""The order of the rooms: handle > _answer > _ask_with_failover > _ask_once.

The engine owns the loop over attempts, its deadlines and cancellation, and three guarantees: every attempt ends
exactly once, every end callback runs exactly once on every path out, and every exchange is observed once
(record, metrics). Plugins decide through the chain; nothing here knows one by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import cast

from llmshield import clock, heads, senders
from llmshield.asking import Asking
from llmshield.attempts import Attempts
from llmshield.call import Call, Finding
from llmshield.chain import Chain, Took, run_now, run_step, stretch_for
from llmshield.compression import TooLarge, unpack
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import Limits, parse_body
from llmshield.endings import Endings
from llmshield.errors import CallError, WireError
from llmshield.exchange import Arrival, Client, Exchange, new_id
from llmshield.idempotency import Repeats
from llmshield.identity import Caller, Identity, without_key
from llmshield.logs import log
from llmshield.passing import Passing
from llmshield.policy import Override, Policy
from llmshield.provider_keys import Keys
from llmshield.replies import Replies
from llmshield.routing import Routing, check_origin
from llmshield.traffic import Dialects, canonical_path, checked_query, param_of
from llmshield.translation import Translations
from llmshield.transport import Transport
from llmshield.verdicts import Answer, Block
from llmshield.witness import Gate, Notary, Witness

_LARGE = 256 * 1024
"""Bytes of a body that is read in a thread: a body of many small values takes 40 ms for each half megabyte."""


class Engine:
    """Handles exchanges under one policy. Made once per policy; a reload makes another one.

    `keys` are the providers' keys (None: the client's own is passed on), `observe` is told about every
    finished exchange, `faults` are simulated failures by provider; `notary` writes what must be durable before anything
    happens, `keeps_texts`: the observer wants the reply's texts.
    """

    def __init__(
        self,
        policy: Policy,
        chain: Chain,
        dialects: Dialects,
        transports: Mapping[str, Transport],
        keys: Keys,
        observe: Callable[[Exchange], None],
        faults: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        repeats: Repeats | None = None,
        notary: Notary | None = None,
        *,
        keeps_texts: bool = False,
    ) -> None:
        self.policy = policy
        self.chain = chain
        self.identity = identity or Identity(policy)
        self._repeats = repeats
        self._witness, self._keeps_texts = Witness(notary) if notary is not None else None, keeps_texts
        self._dialects = dialects
        self._observe = observe
        self._endings = Endings()
        self._replies = Replies(
            dialects, policy.hash[: len("sha256:") + 12], debug=policy.server.debug_headers
        )
        attempts = Attempts(policy, transports, keys, Translations(dialects), faults or {})
        self._asking = Asking(attempts, self._endings, self._replies)
        self._passing = Passing(policy, transports, keys, self._endings, self._replies, attempts)
        self._limits = Limits(body=policy.server.limits.body, depth=policy.server.limits.depth)
        self._routing = Routing(policy)
        self._live: set[asyncio.Task[None]] = set()
        self._draining = False

    # -- one exchange ------------------------------------------------------------------------------------------

    async def handle(
        self, incoming: Arrival, client: Client, task: asyncio.Task[None] | None = None
    ) -> Exchange:
        """Answer one request; whatever happens, the client gets an answer or the exchange was cancelled. `task` is the
        one that this runs in, if whoever calls knows it.

        Raises: CancelledError when the mount cancels (the client is gone), after everything was ended.
        """
        clock.mark()
        x = Exchange(incoming, client, new_id(), clock.monotonic())
        if incoming.on_begin is not None:
            incoming.on_begin(x)
        if self._witness is not None:
            x.witness, x.client = self._witness, cast("Client", Gate(client, self._witness, x))
        task = task or asyncio.current_task()
        if task is not None:
            self._live.add(task)
        try:
            await self._answer(x)
        except CallError as error:
            await self._replies.refuse(x, error)
        except asyncio.CancelledError:
            x.cancelled = True
            if not self._draining:
                raise
            await self._replies.refuse(
                x, CallError("shutting_down", "The gateway is shutting down; try again.", retry_after_s=1)
            )
        except Exception as error:  # noqa: BLE001  the last line: a bug of ours must not become a hang or a leak
            log.exception("internal_error", error, request_id=x.id)
            await self._replies.refuse(
                x, CallError("policy_unavailable", "The gateway failed; the call is refused.")
            )
        finally:
            if task is not None:
                self._live.discard(task)
            if x.error is not None:
                x.error.let_go()
            await self._finish(x)
            senders.release()
        return x

    async def _answer(self, x: Exchange) -> None:
        """Head, caller, body, hooks, and then somebody to ask."""
        self._read_head(x)
        if x.incoming.origin is not None:
            check_origin(x)
        if x.witness is not None:
            x.witness.admit()
        found = self._dialects.find(x.method, x.path, x.headers)
        if found is None:
            await self._unclaimed(x)
            return
        x.dialect, operation = found
        x.operation = operation
        if self._draining:
            raise CallError("shutting_down", "The gateway is shutting down; try again.", retry_after_s=1)
        who = self.identity.identify(x.headers, x.query, x.incoming.peer, x.incoming, x.head)
        caller = x.caller = who if isinstance(who, Caller) else await who
        query = without_key(x.query)
        if x.method == "HEAD" or (operation == "models" and x.path == "/"):
            await self._replies.send(x, 200, {}, b"")
            return
        reads = x.method == "POST" or operation == "generate"
        body = await self._read_json(x) if reads else b""
        if "idempotency-key" in x.headers and await self._repeated(x, query, body):
            return
        request = WireRequest(x.method, x.path, query, x.headers, body)
        try:
            if len(body) < _LARGE:
                tree = parse_body(body, self._limits) if reads else {}
                call = x.dialect.read_call(x.id, operation, request, tree)
            else:
                tree = await asyncio.to_thread(parse_body, body, self._limits)
                call = await asyncio.to_thread(x.dialect.read_call, x.id, operation, request, tree)
        except WireError as error:
            raise CallError("bad_request", str(error), param=param_of(error.place)) from None
        call.tenant, call.tier = caller.tenant, caller.tier
        call.key_id, call.client = caller.key_id, caller.address
        if caller.tags:
            call.tags.update(caller.tags)
        tenant = self.policy.tenants.get(call.tenant)
        if tenant is not None:
            call.tags.update(tenant.tags)
        x.take(call, keeps_texts=self._keeps_texts)
        x.trail.stretch, x.trail.size = stretch_for(len(body)), len(body)
        route = self._routing.route(x, call)
        active = self._overrides(call)
        chain = x.chain = self.chain.under(active) if active else self.chain
        x.overrides = tuple(override.reason for override in active)
        for step in chain.pre_request:
            verdict = run_now(step, x.trail, call)
            if type(verdict) is CoroutineType:
                verdict = await verdict
            if verdict is None:
                continue
            if type(verdict) is Block:
                raise verdict.error(step.plugin)
            if type(verdict) is Answer:
                await self._replies.answer(x, verdict)
                return
            route, x.why = verdict, verdict.why
            break
        else:
            self._asking.lend(x, call)
            for step in chain.choose_provider:
                verdict = await run_step(step, x.trail, call, route)
                if verdict is not None:
                    route, x.why = verdict, verdict.why
                    break
        for sealed in call.sealed:
            sealed.reseal()
        await self._asking.ask_with_failover(x, call, route)

    async def _repeated(self, x: Exchange, query: str, body: bytes) -> bool:
        """Whether this call was answered before, and so is now; else this exchange answers for its key."""
        if self._repeats is None or (kept := await self._repeats.claim(x, query, body)) is None:
            return False
        await self._replies.send(x, kept.status, kept.headers, kept.body)
        return True

    def _read_head(self, x: Exchange) -> None:
        """Method, canonical path, query and headers. Raises: CallError `bad_request`."""
        incoming = x.incoming
        x.head, x.headers = heads.read(incoming.headers, incoming.raw_query, incoming.kept)
        x.method = incoming.method
        x.path = canonical_path(incoming.raw_path)
        x.query = checked_query(incoming.raw_query)
        if x.head.doubled:
            raise CallError("bad_request", "A header that may stand once came twice with different values.")

    async def _read_json(self, x: Exchange) -> bytes:
        """The request's body, decompressed. Raises: CallError for another content type, or too large."""
        content_type = x.headers.get("content-type", "application/json")
        if content_type != "application/json":
            _check_type(content_type)
        body = await x.incoming.read_body(self._limits.body)
        encoding = x.headers.get("content-encoding", "").strip().lower()
        if encoding and encoding != "identity":
            try:
                body = unpack(encoding, body, self._limits.body)
            except TooLarge as error:
                raise CallError("too_large", str(error)) from None
            except WireError as error:
                raise CallError("unsupported_media", str(error)) from None
        return body

    def _overrides(self, call: Call) -> tuple[Override, ...]:
        if not self.policy.overrides:
            return ()
        return self.policy.overrides_for(
            clock.now(), call.model, tenant=call.tenant, tier=call.tier, tags=call.tags
        )

    async def _finish(self, x: Exchange) -> None:
        """The exchange is over: end callbacks of call and reply, then the record and the metrics; each once.

        A client may leave, or a shutdown come, at this very moment: the rest is then done behind its back.
        """
        try:
            await self._run_ends(x)
        except asyncio.CancelledError:
            self._endings.spawn(self._finish_rest(x))
            raise
        self._tell(x)

    async def _finish_rest(self, x: Exchange) -> None:
        await self._run_ends(x)
        self._tell(x)

    async def _run_ends(self, x: Exchange) -> None:
        if x.claim is not None:
            await x.claim.close(x)
        if x.call is not None:
            if x.reply is not None:
                x.reply.cost_picousd = x.cost_picousd
                ends, x.reply._on_end = x.reply._on_end, []
                for plugin, enforced, fn in ends:
                    x.call._proposals = []
                    if waiting := self._endings.begin((fn,), x.reply, x.id):
                        await self._endings.finish(waiting, x.id)
                    _tell_findings(x, plugin, enforced=enforced)
            call_ends, x.call._on_end, x.call._ask = x.call._on_end, [], None
            if waiting := self._endings.begin(call_ends, x.call, x.id):
                await self._endings.finish(waiting, x.id)

    def _tell(self, x: Exchange) -> None:
        try:
            self._observe(x)
            if x.call is not None:
                x.call.let_go()
            if x.shadow is not None:
                x.resumption = x.shadow = x.channels = None
        except Exception as error:  # noqa: BLE001  telemetry may fail; the answer has been given
            log.exception("observer_failed", error, request_id=x.id)

    async def drain(self, seconds: float) -> None:
        """Stop taking calls; wait for those under way, then end the rest with an error in their dialect."""
        self._draining = True
        live = [task for task in self._live if task is not asyncio.current_task()]
        if live:
            _, late = await asyncio.wait(live, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2.0)
        await self._endings.drain(5.0)

    async def _unclaimed(self, x: Exchange) -> None:
        """A path that no dialect claims: an exception of the policy, or a refusal."""
        if x.path == "/" and x.method in {"GET", "HEAD"}:
            await self._replies.send(x, 200, {}, b"")
            return
        server = self.policy.server
        rule = next((rule for rule in server.paths if rule.matches(x.path)), None)
        passes = rule.action == "pass" if rule is not None else server.unknown_traffic == "pass"
        if passes:
            who = self.identity.identify(x.headers, x.query, x.incoming.peer, x.incoming, x.head)
            x.caller = who if isinstance(who, Caller) else await who
            await self._pass_through(x)
            return
        if methods := self._dialects.methods(x.path, x.headers):
            raise CallError(
                "method_not_allowed", f"Method {x.method!r:.20} is not served on this path.",
                headers={"allow": ", ".join(methods)},
            )  # fmt: skip
        if "upgrade" in x.headers:
            raise CallError("unsupported", "Upgrades (WebSocket) are not served.")
        raise CallError(
            "not_found" if x.method in {"GET", "HEAD"} else "unsupported",
            "No dialect of this gateway knows this path; the policy's `server.paths` may let it pass.",
        )

    async def _pass_through(self, x: Exchange) -> None:
        """Send a request on unread, as the policy allows: rate limits and money hold, guards see nothing."""
        dialect = x.dialect = self._dialects.for_errors(x.path, x.headers)
        x.operation = "passthrough"
        body = await x.incoming.read_body(self._limits.body)
        assert x.caller is not None
        call = x.call = Call(
            id=x.id, dialect=dialect.name, family=dialect.family, operation="passthrough", model="", body={},
            headers=x.headers, method=x.method, path=x.path, query=without_key(x.query),
        )  # fmt: skip
        call.tenant, call.tier, call.key_id = x.caller.tenant, x.caller.tier, x.caller.key_id
        call.client = x.caller.address
        if "idempotency-key" in x.headers and await self._repeated(x, call.query, body):
            return
        call.unseen.append("body")
        active = self._overrides(call)
        x.chain = self.chain.under(active) if active else self.chain
        for step in x.chain.pre_request:
            verdict = await run_step(step, x.trail, call)
            if type(verdict) is Block:
                raise verdict.error(step.plugin)
        await self._passing.pass_through(x, call, body)


def _check_type(content_type: str) -> None:
    """Raises: CallError for a body that is no JSON in UTF-8."""
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise CallError(
            "unsupported_media", f"The content type {kind!r:.80} can't be read; send application/json."
        )
    if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise CallError("unsupported_media", "JSON is UTF-8; another charset can't be read.")


def _tell_findings(x: Exchange, plugin: str, *, enforced: bool) -> None:
    """What a plugin's filters saw in the reply, as it told at the reply's end."""
    assert x.call is not None
    findings = tuple(item for item in x.call._proposals if type(item) is Finding)
    if findings:
        action = "flag" if all(finding.action == "flag" for finding in findings) else "redact"
        x.trail.took.append(
            Took(plugin, "reply", action if enforced else f"would-{action}", enforced, 0.0, findings)
        )
