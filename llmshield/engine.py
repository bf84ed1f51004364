"""The order of the rooms: handle > _answer > _ask_with_failover > _ask_once.

The engine owns the loop over attempts, its deadlines and cancellation, and three guarantees: every attempt ends
exactly once, every end callback runs exactly once on every path out, and every exchange is observed once
(record, metrics). Plugins decide through the chain; nothing here knows one by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from llmshield import clock
from llmshield.call import Attempt, Call, Failure, Outcome, Reply, Stop, Usage
from llmshield.chain import Chain, Took, run_step, stretch_for
from llmshield.channels import Channels, Stopped, WouldChange
from llmshield.compression import TooLarge, unpack
from llmshield.dialects import Dialect, WireReply, WireRequest
from llmshield.dialects._tree import Limits, dump, parse_body
from llmshield.errors import CallError, StoreUnavailable, UpstreamError, WireError
from llmshield.exchange import Client, Exchange, Incoming, new_id
from llmshield.headers import client_headers, upstream_headers
from llmshield.identity import Identity
from llmshield.logs import log
from llmshield.policy import Policy, Provider
from llmshield.policy.globs import compile_globs
from llmshield.policy.providers import Timeout
from llmshield.relay import read_all, stream, whole
from llmshield.traffic import Dialects, canonical_path, checked_query
from llmshield.transport import Timeouts, Transport
from llmshield.verdicts import Answer, Block, Route, Skip, Target

APP = "app"
_MAX_ATTEMPTS = 32
"""Attempts of one call, whatever the plugins say: a loop of two plugins must end."""
_ERROR_BODY = 1024 * 1024
_SINGLE = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "host", "content-type", "content-encoding",
     "content-length", "transfer-encoding"}
)  # fmt: skip
_PASSED_ON = frozenset(range(400, 500)) - {401, 403, 407, 408}
"""Statuses of a provider that say something about the call: the client gets them as the provider wrote them.
401 and 403 join them when it was the client's own key that the provider refused."""


_DEFAULT_TIMEOUT = Timeout()


class Engine:
    """Handles exchanges under one policy. Made once per policy; a reload makes another one.

    `keys` are the resolved provider keys (None: the client's own is passed on), `observe` is told about every
    finished exchange.
    """

    def __init__(
        self,
        policy: Policy,
        chain: Chain,
        dialects: Dialects,
        transports: Mapping[str, Transport],
        keys: Mapping[str, str | None],
        observe: Callable[[Exchange], None],
        failures: Mapping[str, str] | None = None,
    ) -> None:
        self.policy = policy
        self.chain = chain
        self.identity = Identity(policy)
        self._dialects = dialects
        self._transports = transports
        self._keys = keys
        self._observe = observe
        self._failures = failures or {}
        self._limits = Limits(body=policy.server.limits.body, depth=policy.server.limits.depth)
        self._tier_models = {
            name: compile_globs(tier.models) for name, tier in policy.tiers.items() if tier.models is not None
        }
        self._policy_tag = policy.hash.removeprefix("sha256:")[:12]
        self._background: set[asyncio.Task[None]] = set()
        self._live: set[asyncio.Task[None]] = set()
        self._draining = False

    # -- one exchange ------------------------------------------------------------------------------------------

    async def handle(self, incoming: Incoming, client: Client) -> Exchange:
        """Answer one request; whatever happens, the client gets an answer or the exchange was cancelled.

        Raises: CancelledError when the mount cancels (the client is gone), after everything was ended.
        """
        x = Exchange(incoming, client, new_id(), clock.monotonic())
        task = asyncio.current_task()
        if task is not None:
            self._live.add(task)
        try:
            await self._answer(x)
        except CallError as error:
            await self._refuse(x, error)
        except asyncio.CancelledError:
            x.cancelled = True
            if not self._draining:
                raise
            await self._refuse(x, CallError("shutting_down", "The gateway is shutting down; try again."))
        except Exception as error:  # noqa: BLE001  the last line: a bug of ours must not become a hang or a leak
            log.exception("internal_error", error, request_id=x.id)
            await self._refuse(x, CallError("policy_unavailable", "The gateway failed; the call is refused."))
        finally:
            if task is not None:
                self._live.discard(task)
            await self._finish(x)
        return x

    async def _answer(self, x: Exchange) -> None:
        """Head, caller, body, hooks, and then somebody to ask."""
        self._read_head(x)
        found = self._dialects.find(x.method, x.path, x.headers)
        if found is None:
            await self._unclaimed(x)
            return
        x.dialect, operation = found
        x.operation = operation
        if self._draining:
            raise CallError("shutting_down", "The gateway is shutting down; try again.", retry_after_s=1)
        caller = x.caller = self.identity.identify(x.headers, x.query, x.incoming.peer)
        query = _without_key(x.query)
        if x.method == "HEAD" or (operation == "models" and x.path == "/"):
            await self._send(x, 200, {}, b"")
            return
        body = await self._read_json(x) if x.method == "POST" else b""
        request = WireRequest(x.method, x.path, query, x.headers, body)
        try:
            tree = parse_body(body, self._limits) if x.method == "POST" else {}
            call = x.dialect.read_call(x.id, operation, request, tree)
        except WireError as error:
            raise CallError("bad_request", str(error), param=_param(error.place)) from None
        call.tenant, call.tier, call.key_id, call.client = (
            caller.tenant,
            caller.tier,
            caller.key_id,
            caller.address,
        )
        tenant = self.policy.tenants.get(call.tenant)
        if tenant is not None:
            call.tags.update(tenant.tags)
        x.call = call
        x.trail.stretch = stretch_for(len(body))
        route = self._route(x, call)
        active = self._overrides(call)
        chain = x.chain = self.chain.under(active) if active else self.chain
        x.overrides = tuple(override.reason for override in active)
        for step in chain.pre_request:
            verdict = await run_step(step, x.trail, call)
            if verdict is None:
                continue
            if type(verdict) is Block:
                raise verdict.error(step.plugin)
            if type(verdict) is Answer:
                await self._send_answer(x, verdict)
                return
            route, x.why = verdict, verdict.why
            break
        else:
            for step in chain.choose_provider:
                verdict = await run_step(step, x.trail, call, route)
                if verdict is not None:
                    route, x.why = verdict, verdict.why
                    break
        for sealed in call.sealed:
            sealed.reseal()
        await self._ask_with_failover(x, call, route)

    def _read_head(self, x: Exchange) -> None:
        """Method, canonical path, query and headers. Raises: CallError `bad_request`."""
        incoming = x.incoming
        headers: dict[str, str] = {}
        doubled = False
        for raw_name, raw_value in incoming.headers:
            name = raw_name.decode("latin-1").lower()
            value = raw_value.decode("latin-1")
            if name in headers:
                if name in _SINGLE and headers[name] != value:
                    doubled = True
                elif name not in _SINGLE:
                    value = f"{headers[name]}, {value}"
            headers[name] = value
        x.headers = headers
        x.method = incoming.method
        x.path = canonical_path(incoming.raw_path)
        x.query = checked_query(incoming.raw_query)
        if doubled:
            raise CallError(
                "bad_request", "A header that may stand once was sent twice with different values."
            )

    async def _read_json(self, x: Exchange) -> bytes:
        """The request's body, decompressed. Raises: CallError for another content type, or too large."""
        content_type = x.headers.get("content-type", "application/json")
        kind, _, parameters = content_type.partition(";")
        kind = kind.strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise CallError(
                "unsupported_media", f"The content type {kind!r:.80} can't be read; send application/json."
            )
        if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
            raise CallError("unsupported_media", "JSON is UTF-8; another charset can't be read.")
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

    def _route(self, x: Exchange, call: Call) -> Route:
        """What the policy's `routes` say. Raises: CallError `model_denied` (also by the tenant's tier)."""
        if call.tier is not None and call.operation != "models":
            allows = self._tier_models.get(call.tier)
            if allows is not None and not allows(call.model):
                raise CallError(
                    "model_denied",
                    f"Model {call.model!r:.100} is not open to tier {call.tier!r}.",
                    param="model",
                )
        family = call.family
        if call.operation == "models" or not self.policy.routes:
            names = [p.name for p in self.policy.providers.values() if p.dialect == family]
            if APP in x.incoming.local and (not names or call.operation == "models"):
                names = [APP]
            if not names:
                raise CallError("no_provider", f"The policy has no provider that speaks {family!r}.")
            return Route(tuple(Target(name) for name in names), why="the policy has no routes")
        rule = self.policy.route_for(call.model, tenant=call.tenant, tier=call.tier, tags=call.tags)
        if rule is None:
            raise CallError(
                "model_denied", f"No route of the policy matches model {call.model!r:.100}.", param="model"
            )
        if rule.deny is not None:
            raise CallError("model_denied", rule.deny.text(call.model[:100]), param="model")
        return Route(rule.to, why="routes")

    def _overrides(self, call: Call) -> list[Any]:
        overrides = self.policy.overrides
        if not overrides:
            return []
        now = clock.now()
        return [
            override
            for override in overrides
            if override.active(now) and override.match.matches(call.model, call.tenant, call.tier, call.tags)
        ]

    # -- asking ------------------------------------------------------------------------------------------------

    async def _ask_with_failover(self, x: Exchange, call: Call, route: Route) -> None:
        """Walk targets until one has answered; on_failure says whom to ask next."""
        tries: dict[Target, int] = {}
        failures: list[UpstreamError] = []
        target = route.targets[0]
        if route.after:
            await clock.sleep(min(route.after, 60.0))
        while True:
            try:
                await self._ask_once(x, call, target, own_key=not failures and target == route.targets[0])
                return
            except UpstreamError as error:
                failures.append(error)
                failed = error
            attempt = x.attempts[-1]
            tries[target] = tries.get(target, 0) + 1
            failure = Failure(
                attempt, failed.reason, failed.status, failed.code, failed.retry_after_s, tries[target],
                x.client.started, route, tuple(x.attempts),
            )  # fmt: skip
            verdict = None
            assert x.chain is not None
            for step in x.chain.on_failure:
                verdict = await run_step(step, x.trail, call, failure)
                if verdict is not None:
                    break
            if isinstance(verdict, Answer):
                x.degraded = verdict.degraded
                await self._send_answer(x, verdict)
                return
            if not isinstance(verdict, Route) or len(x.attempts) >= _MAX_ATTEMPTS:
                raise _given_up(failures, x)
            if verdict.after > 0:
                await clock.sleep(min(verdict.after, 60.0))
            target = verdict.targets[0]

    async def _ask_once(self, x: Exchange, call: Call, target: Target, *, own_key: bool) -> None:
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
        try:
            request, transport, timeouts = await self._prepare(x, call, attempt, own_key=own_key)
            asked_at = clock.monotonic()
            try:
                await self._exchange_with(x, call, attempt, request, transport, timeouts)
            finally:
                x.upstream_s += clock.monotonic() - asked_at
            outcome = "blocked" if x.stopped else "failed" if x.broken else "ok"
        except UpstreamError as error:
            attempt.reason, attempt.status, attempt.code = error.reason, error.status, error.code
            if error.reason == "connect":
                attempt.sent = False
            if error.reason in {"skipped", "circuit_open"}:
                outcome = "skipped"
            raise
        except CallError:
            outcome = "blocked"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            await self._end_attempt(attempt, outcome)
        await x.client.end()

    async def _prepare(
        self, x: Exchange, call: Call, attempt: Attempt, *, own_key: bool
    ) -> tuple[WireRequest, Transport, Timeouts]:
        """Body, guards, key and headers for this target. Raises: UpstreamError, CallError of a guard."""
        assert x.dialect is not None
        assert x.caller is not None
        dialect, name = x.dialect, attempt.provider
        provider = self.policy.providers.get(name)
        if name == APP:
            transport = x.incoming.local.get(APP)
            if transport is None:
                raise UpstreamError("skipped", "There is no wrapped app behind this mount.")
        else:
            assert provider is not None  # routes name providers of the policy: checked at load
            transport = self._transports[name]
            if provider.dialect != dialect.family:
                raise UpstreamError("skipped", f"Provider {name!r} speaks another dialect.", code="dialect")
        if provider is not None and call.model and not provider.models.allows(attempt.model):
            raise UpstreamError(
                "skipped", f"Provider {name!r} may not be asked for this model.", code="model"
            )
        body = attempt.body = dialect.write_call(call, attempt.model) if call.method == "POST" else {}
        if x.trail.clamp is not None:
            dialect.clamp(body, x.trail.clamp)
        attempt.output_bound = dialect.bound(body)
        attempt.choices = call.choices
        attempt.unseen = tuple(call.unseen)
        payload = dump(body) if call.method == "POST" else b""
        attempt.input_bytes = len(payload)
        if call._attempt_guards and await self._run_guards(x, call, attempt, dialect):
            payload = dump(body)
        path, query = (call.path, call.query) if name == APP else dialect.target(call, attempt.model)
        key = self._keys.get(name)
        passes = key is None and own_key and x.caller.key is not None
        headers = upstream_headers(call.headers, own_key=passes or name == APP)
        if call.method != "POST":
            headers.pop("content-type", None)
        if key is None and (passes or name == APP):
            key = x.caller.key
        if key is not None:
            headers.update(dialect.credentials(key))
        headers["x-client-request-id"] = call.headers.get("x-client-request-id", x.id)
        timeouts = _timeouts(provider, streamed=call.stream)
        return WireRequest(call.method, path, query, headers, payload), transport, timeouts

    async def _run_guards(self, x: Exchange, call: Call, attempt: Attempt, dialect: Dialect) -> bool:
        """The attempt guards, in the order of their plugins; True when one changed the body."""
        changed = False
        for guard in call._attempt_guards:
            ends = len(attempt._ends)
            try:
                said = guard.run(attempt)
                if isinstance(said, Awaitable):
                    said = await said
            except Exception as error:
                del attempt._ends[ends:]
                attempt._proposals.clear()
                log.error(
                    "attempt_guard_failed", plugin=guard.plugin, error=type(error).__name__, request_id=x.id
                )
                x.trail.took.append(
                    Took(guard.plugin, "attempt", "error", guard.enforced, 0.0, (), type(error).__name__)
                )
                if guard.fail_open or not guard.enforced:
                    continue
                lost = isinstance(error, StoreUnavailable)
                raise CallError(
                    "store_unavailable" if lost else "policy_unavailable",
                    f"Policy plugin {guard.plugin!r} failed; the call is refused.",
                    plugin=guard.plugin,
                ) from error
            clamps = attempt._proposals[:]
            attempt._proposals.clear()
            if not guard.enforced:
                if said is not None or clamps:
                    what = (
                        "would-block"
                        if isinstance(said, Block)
                        else "would-clamp"
                        if clamps
                        else "would-skip"
                    )
                    x.trail.took.append(Took(guard.plugin, "attempt", what, False, 0.0))
                continue
            if isinstance(said, Block):
                x.trail.took.append(Took(guard.plugin, "attempt", "block", True, 0.0))
                raise said.error(guard.plugin)
            if isinstance(said, Skip):
                x.trail.took.append(Took(guard.plugin, "attempt", "skip", True, 0.0))
                raise UpstreamError("skipped", said.reason, code=guard.plugin)
            for clamp in clamps:
                dialect.clamp(attempt.body, clamp.tokens)
                changed = True
            if clamps:
                attempt.output_bound = dialect.bound(attempt.body)
                x.trail.took.append(Took(guard.plugin, "attempt", "clamp", True, 0.0))
        return changed

    async def _exchange_with(
        self,
        x: Exchange,
        call: Call,
        attempt: Attempt,
        request: WireRequest,
        transport: Transport,
        timeouts: Timeouts,
    ) -> None:
        """Send, judge the head, relay the body. Raises: UpstreamError, CallError."""
        assert x.dialect is not None
        dialect = x.dialect
        self._simulated_failure(x, attempt)
        attempt.sent = True
        upstream = await transport.ask(request, timeouts)
        try:
            attempt.status = upstream.status
            if not 200 <= upstream.status < 300 or upstream.status in {204, 205}:
                body = await read_all(upstream, _ERROR_BODY)
                if upstream.status < 400:
                    raise UpstreamError(
                        "malformed", f"The provider answered {upstream.status}.", status=upstream.status
                    )
                raise dialect.read_error(upstream.status, upstream.headers, body)
            kind = upstream.headers.get("content-type", "").partition(";")[0].strip().lower()
            if call.operation == "models":
                if "json" not in kind:
                    raise UpstreamError("malformed", "The provider's answer is not JSON.")
                data = await read_all(upstream, _ERROR_BODY * 8)
                await self._send(x, upstream.status, client_headers(upstream.headers), data, end=False)
                return
            if call.stream and kind != "application/json":
                if kind not in {"text/event-stream", "application/x-ndjson", "application/stream+json", ""}:
                    raise UpstreamError("malformed", "The provider's stream has another content type.")
                await self._relay_stream(x, call, attempt, upstream, timeouts)
            else:
                await self._relay_whole(x, attempt, upstream)
        except BaseException:
            upstream.close()
            raise

    async def _relay_whole(self, x: Exchange, attempt: Attempt, upstream: Any) -> None:
        assert x.dialect is not None

        async def open_channels(model: str) -> Channels:
            return await self._open_channels(x, attempt, model, streamed=False, status=upstream.status)

        try:
            data = await whole(x, attempt, upstream, x.dialect, open_channels)
        except Stopped as stopped:
            raise stopped.block.error(stopped.plugin) from stopped
        await self._end_attempt(attempt, "ok")  # before the head: it carries the cost
        head = client_headers(upstream.headers)
        await self._send(x, upstream.status, head, data, end=False)

    async def _relay_stream(
        self, x: Exchange, call: Call, attempt: Attempt, upstream: Any, timeouts: Timeouts
    ) -> None:
        assert x.dialect is not None
        codec = x.dialect.open_stream(call)
        channels = await self._open_channels(x, attempt, attempt.model, streamed=True, status=upstream.status)

        async def begin() -> None:
            head = client_headers(upstream.headers)
            head["content-type"] = upstream.headers.get("content-type") or "text/event-stream"
            head["cache-control"] = "no-cache"
            x.first_byte_at = clock.monotonic()
            await x.client.start(upstream.status, self._head(x, head))
            x.status = upstream.status

        ending = await stream(x, attempt, upstream, codec, channels, begin, timeouts.idle)
        x.stopped, x.broken = ending == "stopped", ending == "broken"
        if ending != "complete" or not codec.ended:
            upstream.close()
        else:
            self._spawn(_drain(upstream))

    async def _open_channels(
        self, x: Exchange, attempt: Attempt, model: str, *, streamed: bool, status: int
    ) -> Channels:
        """The reply's head is known: run post_response once per call, and open fresh filters per attempt."""
        assert x.call is not None
        assert x.chain is not None
        if x.reply is None:
            reply = x.reply = Reply(
                provider=attempt.provider,
                model=model,
                dialect=attempt.dialect,
                stream=streamed,
                status=status,
            )
            for step in x.chain.post_response:
                verdict = await run_step(step, x.trail, x.call, reply)
                if verdict is not None:
                    raise verdict.error(step.plugin)
        reply = x.reply
        reply.provider, reply.model, reply.attempts = attempt.provider, model, len(x.attempts)

        def watch(attached: Any, what: Stop | Exception) -> None:
            if isinstance(what, Stop):
                action = "block" if attached.enforced else "would-block"
            elif isinstance(what, WouldChange):
                action = "would-redact"
            else:
                action = "error"
                log.error("filter_failed", plugin=attached.plugin, error=type(what).__name__, request_id=x.id)
            if not any(
                t.plugin == attached.plugin and t.hook == "filter" and t.action == action
                for t in x.trail.took
            ):
                x.trail.took.append(Took(attached.plugin, "filter", action, attached.enforced, 0.0))

        return Channels(reply._filters, watch)

    def _simulated_failure(self, x: Exchange, attempt: Attempt) -> None:
        """Rehearsals (`server.simulation`): a provider fails because the operator or a header says so."""
        if not self.policy.server.simulation:
            return
        fault = self._failures.get(attempt.provider)
        wanted = x.headers.get("x-llmshield-simulate", "")
        name, _, asked = wanted.partition("=")
        if name == attempt.provider:
            fault = asked or "503"
        if fault is None:
            return
        if fault.isdigit():
            raise UpstreamError("status", f"Simulated failure ({fault}).", status=int(fault))
        raise UpstreamError("connect", "Simulated failure.")

    # -- ends --------------------------------------------------------------------------------------------------

    async def _end_attempt(self, attempt: Attempt, outcome: Outcome) -> None:
        """End an attempt, once: later calls find nothing left to do."""
        if attempt.outcome is not None:
            return
        attempt.outcome = outcome
        attempt.ended_at = clock.monotonic()
        ends, attempt._ends = attempt._ends, []
        await self._run_ends(ends, attempt, attempt.call.id)

    async def _finish(self, x: Exchange) -> None:
        """The exchange is over: end callbacks of call and reply, then the record and the metrics; each once."""
        if x.call is not None:
            if x.reply is not None:
                x.reply.cost_picousd = x.cost_picousd
                ends, x.reply._on_end = x.reply._on_end, []
                await self._run_ends(ends, x.reply, x.id)
            call_ends, x.call._on_end = x.call._on_end, []
            await self._run_ends(call_ends, x.call, x.id)
        try:
            self._observe(x)
        except Exception as error:  # noqa: BLE001  telemetry may fail; the answer has been given
            log.exception("observer_failed", error, request_id=x.id)

    async def _run_ends(self, ends: Iterable[Callable[[Any], Any]], subject: object, request_id: str) -> None:
        """Run end callbacks; one that fails is logged and keeps none of the others from running."""
        waiting: list[Awaitable[Any]] = []
        for fn in ends:
            try:
                result = fn(subject)
                if isinstance(result, Awaitable):
                    waiting.append(result)
            except Exception as error:  # noqa: BLE001  the others must run
                log.exception("end_callback_failed", error, request_id=request_id)
        if waiting:
            # In a task of their own: a client that goes away now must not cut a settlement in half.
            await asyncio.shield(self._spawn(_all(waiting, request_id)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

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
        if self._background:
            await asyncio.wait(set(self._background), timeout=5.0)

    # -- answering ---------------------------------------------------------------------------------------------

    async def _send(
        self, x: Exchange, status: int, headers: Mapping[str, str], body: bytes, *, end: bool = True
    ) -> None:
        x.status = status
        head = self._head(x, dict(headers))
        head.setdefault("content-type", "application/json")
        head["content-length"] = str(len(body))
        x.first_byte_at = clock.monotonic()
        await x.client.start(status, head)
        if body and x.method != "HEAD":
            await x.client.send(body)
        if end:
            await x.client.end()

    async def _send_answer(self, x: Exchange, answer: Answer) -> None:
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
            await self._send(x, 200, {"content-type": "text/event-stream", "cache-control": "no-cache"}, body)
        else:
            await self._send(x, 200, {}, dump(x.dialect.answer(x.call, answer)))

    async def _refuse(self, x: Exchange, error: CallError) -> None:
        """Write an error in the client's dialect; after the head has gone out the connection can only be cut."""
        x.error = error
        if x.client.started:
            x.broken = True
            await x.client.end()
            return
        dialect = x.dialect or self._dialects.for_errors(x.path, x.headers)
        reply = _upstream_reply(error) or dialect.write_error(error, x.id)
        await self._send(x, reply.status, reply.headers, reply.body)

    def _head(self, x: Exchange, headers: dict[str, str]) -> dict[str, str]:
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
        if self.policy.server.debug_headers:
            headers["x-llmshield-plugins"] = ", ".join(_debug(took) for took in x.trail.took)
        if x.call is not None:
            headers.update(x.call.response_headers)
        return headers

    # -- traffic that no dialect knows -------------------------------------------------------------------------

    async def _unclaimed(self, x: Exchange) -> None:
        """A path that no dialect claims: an exception of the policy, or a refusal."""
        if x.path == "/" and x.method in {"GET", "HEAD"}:
            await self._send(x, 200, {}, b"")
            return
        server = self.policy.server
        rule = next((rule for rule in server.paths if rule.matches(x.path)), None)
        passes = rule.action == "pass" if rule is not None else server.unknown_traffic == "pass"
        if passes:
            x.caller = self.identity.identify(x.headers, x.query, x.incoming.peer)
            await self._pass_through(x)
            return
        if self._dialects.knows_path(x.path, x.headers):
            raise CallError("method_not_allowed", f"Method {x.method!r:.20} is not served on this path.")
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
            headers=x.headers, method=x.method, path=x.path, query=_without_key(x.query),
        )  # fmt: skip
        call.tenant, call.tier, call.key_id = x.caller.tenant, x.caller.tier, x.caller.key_id
        call.client = x.caller.address
        call.unseen.append("body")
        active = self._overrides(call)
        x.chain = self.chain.under(active) if active else self.chain
        for step in x.chain.pre_request:
            verdict = await run_step(step, x.trail, call)
            if type(verdict) is Block:
                raise verdict.error(step.plugin)
        names = [p.name for p in self.policy.providers.values() if p.dialect == dialect.family]
        if APP in x.incoming.local:
            names = [APP]
        if not names:
            raise CallError("no_provider", f"The policy has no provider that speaks {dialect.family!r}.")
        attempt = Attempt(call, number=1, provider=names[0], model="", dialect=dialect.name, body={})
        attempt.started_at = clock.monotonic()
        attempt.input_bytes = len(body)
        attempt.unseen = tuple(call.unseen)
        x.attempts.append(attempt)
        outcome: Outcome = "failed"
        try:
            await self._run_guards(x, call, attempt, dialect)
            await self._pass_bytes(x, call, attempt, body)
            outcome = "ok"
        except UpstreamError as error:
            attempt.reason = error.reason
            raise _given_up([error], x) from error
        except CallError:
            outcome = "blocked"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            await self._end_attempt(attempt, outcome)

    async def _pass_bytes(self, x: Exchange, call: Call, attempt: Attempt, body: bytes) -> None:
        name = attempt.provider
        transport = x.incoming.local[APP] if name == APP else self._transports[name]
        provider = self.policy.providers.get(name)
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
        path = call.path if name == APP else _below_base(call.path, call.family)
        attempt.sent = True
        upstream = await transport.ask(
            WireRequest(x.method, path, call.query, headers, body), _timeouts(provider, streamed=True)
        )
        try:
            attempt.status = x.status = upstream.status
            head = client_headers(upstream.headers)
            if "content-type" in upstream.headers:
                head["content-type"] = upstream.headers["content-type"]
            upstream.idle_after(_timeouts(provider, streamed=True).idle)
            await x.client.start(upstream.status, self._head(x, head))
            while data := await upstream.chunk():
                await x.client.send(data)
            await x.client.end()
        except BaseException:
            upstream.close()
            raise


def _given_up(failures: list[UpstreamError], x: Exchange) -> CallError:
    """The error for a client after the last failure.

    What a provider says about the call itself (a 4xx) is passed on, the first target's before a fallback's:
    a plain error is never masked by the fallback's own rejection. Else: timeouts are 504, the rest 503.
    """
    real = [failure for failure in failures if failure.reason not in {"skipped", "circuit_open"}]
    for failure in real:
        own = failure.status in {401, 403} and x.caller is not None and x.caller.key is not None
        if failure.status is not None and failure.body and (failure.status in _PASSED_ON or own):
            return _PassedOn(failure)
    if real and all(failure.reason in {"first_token", "idle", "total"} for failure in real):
        return CallError("upstream_timeout", "No provider answered in time.")
    waits = [failure.retry_after_s for failure in failures if failure.retry_after_s]
    return CallError(
        "no_provider",
        f"No provider could answer ({len(real)} tried).",
        retry_after_s=min(waits) if waits else 1.0,
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
    headers["content-type"] = failure.headers.get("content-type", "application/json")
    return WireReply(failure.status, headers, failure.body)


async def _all(waiting: list[Awaitable[Any]], request_id: str) -> None:
    for result in waiting:
        try:
            await result
        except Exception as error:  # noqa: BLE001  the others must run
            log.exception("end_callback_failed", error, request_id=request_id)


async def _drain(upstream: Any) -> None:
    """Read a finished stream to its very end, so that its connection can serve again."""
    try:
        upstream.idle_after(1.0)
        while await upstream.chunk():
            pass
    except UpstreamError:
        upstream.close()


def _timeouts(provider: Provider | None, *, streamed: bool) -> Timeouts:
    """The policy's `timeout` of a provider. A whole answer begins when it is complete: only a limit that the
    policy states itself holds for its first byte."""
    if provider is None:
        given = _DEFAULT_TIMEOUT
    else:
        given = provider.timeout
    first = given.first_token
    if not streamed and "first_token" not in given.model_fields_set:
        first = given.total
    return Timeouts(given.connect, first, given.idle, given.total)


def _below_base(path: str, family: str) -> str:
    """The path below a provider's base_url: an OpenAI one ends in /v1 itself."""
    return path.removeprefix("/v1") if family == "openai" else path


def _without_key(query: str) -> str:
    """The query without a credential."""
    if "key=" not in query:
        return query
    return "&".join(pair for pair in query.split("&") if not pair.startswith("key="))


def _param(place: str) -> str | None:
    """A JSON pointer in the words of SDK errors."""
    out = ""
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        out += f"[{step}]" if step.isdigit() else f".{step}" if out else step
    return out or None


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
