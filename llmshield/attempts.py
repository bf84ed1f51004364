"""Getting one attempt ready: whom it asks, in which dialect, with what body, key and headers; and its guards."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from llmshield import clock
from llmshield.call import Attempt, Call, Clamp
from llmshield.chain import Took
from llmshield.conversation import Conversation
from llmshield.dialects import Dialect, StreamCodec, WireRequest
from llmshield.dialects._tree import dump
from llmshield.errors import FAILURES, CallError, PluginError, StoreUnavailable, UpstreamError
from llmshield.exchange import Exchange
from llmshield.headers import upstream_headers
from llmshield.heads import lines_of
from llmshield.identity import as_bearer
from llmshield.logs import log
from llmshield.policy import Policy, Provider
from llmshield.policy.providers import APP, Timeout
from llmshield.provider_keys import Keys
from llmshield.resuming import ArrayReader, Shadow
from llmshield.translation import Translation, Translations, untold
from llmshield.transport import Timeouts, Transport
from llmshield.verdicts import Block, Skip

_DEFAULT_TIMEOUT = Timeout()
_CALL_S = 600.0
"""As long as the SDKs of OpenAI and Anthropic wait for an answer."""


@dataclass(slots=True)
class Prepared:
    """An attempt that can be sent. `dialect` and `call` are what its provider speaks and is asked; `translation`
    is the way back where that is not what the client speaks."""

    request: WireRequest
    transport: Transport
    timeouts: Timeouts
    dialect: Dialect
    call: Call
    translation: Translation | None = None
    reply_headers: frozenset[str] = frozenset()
    """Headers of the answer that the policy lets come back."""


class Attempts:
    """Gets attempts ready under one policy. `keys` are the resolved provider keys, `faults` what is simulated."""

    def __init__(
        self,
        policy: Policy,
        transports: Mapping[str, Transport],
        keys: Keys,
        translations: Translations,
        faults: Mapping[str, str],
    ) -> None:
        self._policy = policy
        self._transports = transports
        self._keys = keys
        self._translations = translations
        self._faults = faults
        self._timeouts: dict[tuple[str, bool], tuple[Provider | None, Timeouts]] = {}
        longest = max((provider.timeout.total for provider in policy.providers.values()), default=0.0)
        self.call_s = policy.server.limits.call or max(_CALL_S, longest)
        """Seconds that a call may take with all its attempts and waits."""

    async def prepare(
        self, x: Exchange, call: Call, attempt: Attempt, *, own_key: bool, whole: bool = False
    ) -> Prepared:
        """Body, guards, key and headers for this target; `whole`: its answer is not to be streamed.

        Raises: UpstreamError, CallError of a guard.
        """
        assert x.dialect is not None
        name = attempt.provider
        provider = self._policy.providers.get(name)
        if name == APP and (x.resumption is not None or whole):
            raise UpstreamError("skipped", "The wrapped app can't be asked this.")
        if provider is not None and not provider.models.open and not _may_ask(provider, call, attempt.model):
            raise UpstreamError(
                "skipped", f"Provider {name!r} may not be asked for this model.", code="model"
            )
        translation = None
        if name != APP and provider is not None:
            if provider.dialect != x.dialect.family or x.resumption is not None or whole:
                translation = self._translations.to(
                    provider.dialect or "", call, attempt.model, x.resumption, whole=whole, lost=attempt.lost
                )
            if translation is not None and translation.lost and x.on_loss == "refuse":
                attempt.lost = translation.lost
                raise untold("loss", f"Provider {name!r} would not be told: {translation.lost[0]}.")
        return await self._ready(x, call, attempt, translation, own_key=own_key)

    async def prepare_aside(
        self, x: Exchange, call: Call, attempt: Attempt, conversation: Conversation
    ) -> Prepared:
        """The same for a question of a plugin's own. Raises: UpstreamError, CallError of a guard."""
        provider = self._policy.providers.get(attempt.provider)
        if provider is None or provider.dialect is None:
            raise UpstreamError("skipped", f"There is no provider {attempt.provider!r} to ask.")
        conversation.model = attempt.model
        translation = self._translations.aside(provider.dialect, call, conversation)
        return await self._ready(x, call, attempt, translation, own_key=False)

    async def _ready(
        self, x: Exchange, call: Call, attempt: Attempt, translation: Translation | None, *, own_key: bool
    ) -> Prepared:
        """What is sent, once it is known in which words."""
        assert x.dialect is not None
        dialect, asked, name = x.dialect, call, attempt.provider
        provider = self._policy.providers.get(name)
        if x.regions is not None and (provider is None or provider.region not in x.regions):
            raise UpstreamError(
                "skipped", f"Provider {name!r} is in none of the route's regions.", code="region"
            )
        self._keys.get(name)  # one that may not be used ends this before any money is held
        transport = self._transports.get(name) if name != APP else x.incoming.local.get(APP)
        if transport is None:
            raise UpstreamError("skipped", "There is no wrapped app behind this mount.")
        if translation is not None:
            dialect, asked = translation.dialect, translation.call
            attempt.dialect, attempt.lost = dialect.name, translation.lost
        posts = call.method == "POST" or call.operation == "generate"
        body = attempt.body = dialect.write_call(asked, attempt.model) if posts else {}
        if not own_key and name != APP and _carries_credential(body) and not self._is_first_host(x, provider):
            raise UpstreamError(
                "skipped", f"The call carries a credential for its tools, which provider {name!r} is not to see.",
                code="credential",
            )  # fmt: skip
        if provider is not None and provider.adapts and call.operation == "generate":
            self._translations.adapt(dialect.name, body, provider)
        if x.trail.clamp is not None:
            dialect.clamp(body, x.trail.clamp)
        attempt.output_bound = dialect.bound(body)
        attempt.choices = asked.choices
        attempt.unseen = tuple(call.unseen)
        payload = dump(body) if posts else b""
        attempt.input_bytes = len(payload)
        if call._attempt_guards and await self.run_guards(x, call, attempt, dialect):
            payload = dump(body)
        path, query = (call.path, call.query) if name == APP else dialect.target(asked, attempt.model)
        # What a client says in headers is for its own dialect's provider; another one is told in its own words.
        told = call.headers if translation is None else asked.headers
        headers, lines = self._headers(x, told, dialect, name, own_key=own_key and translation is None)
        if not posts:
            headers.pop("content-type", None)
            lines = ""
        timeouts = self._timeouts_of(name, provider, streamed=asked.stream)
        if x.first_token is not None and x.first_token < timeouts.first_token:
            timeouts = replace(timeouts, first_token=x.first_token)
        if attempt.number > 1 or self.call_s < timeouts.total:
            timeouts = _within(timeouts, x.deadline - clock.monotonic())
        request = WireRequest(call.method, path, query, headers, payload, lines)
        if x.witness is not None:
            await x.witness.ask(x)
        listed = provider.reply_headers if provider is not None else frozenset[str]()
        return Prepared(request, transport, timeouts, dialect, asked, translation, listed)

    def _timeouts_of(self, name: str, provider: Provider | None, *, streamed: bool) -> Timeouts:
        held = self._timeouts.get((name, streamed))
        if held is None or held[0] is not provider:
            held = self._timeouts[name, streamed] = (provider, timeouts_of(provider, streamed=streamed))
        return held[1]

    def _is_first_host(self, x: Exchange, provider: Provider | None) -> bool:
        """Whether this provider is at the host of the first one that the policy's route names."""
        first = self._policy.providers.get(x.to[0].provider) if x.to else None
        if first is None or provider is None:
            return False
        return urlsplit(first.base_url).netloc == urlsplit(provider.base_url).netloc

    def shadow(self, x: Exchange, codec: StreamCodec) -> Shadow | None:
        """Watches a stream that may be resumed; None where its route, its dialect, or several answers to one call
        have no such thing."""
        if x.mid_stream == "error" or x.dialect is None or x.call is None or x.call.choices != 1:
            return None
        reader = self._translations.reader(x.dialect.name)
        if reader is not None and codec.media_type == "application/json":
            reader = ArrayReader(reader)
        return Shadow(reader, x.mid_stream) if reader is not None else None

    def _headers(
        self, x: Exchange, told: Mapping[str, str], dialect: Dialect, name: str, *, own_key: bool
    ) -> tuple[dict[str, str], str]:
        """The client's headers for this provider, with the provider's key, or the client's own where the policy
        has none; and the same as lines, "" where they have to be made of them yet."""
        assert x.caller is not None
        key = self._keys.get(name)
        passes = key is None and own_key and x.caller.key is not None
        travels = passes or name == APP
        if x.head is not None:
            headers, lines = x.head.going_up(told, own_key=travels)
        else:  # a question that no client asked
            headers, lines = upstream_headers(told, own_key=travels), ""
        ours: dict[str, str] = {}
        if key is not None:
            ours = dialect.credentials(key)
        elif travels and (own := x.caller.key) is not None:
            x.own_key = True
            ours = as_bearer(told, own) or dialect.credentials(own)
        if "x-client-request-id" not in headers:
            ours["x-client-request-id"] = x.id
        lines = lines + lines_of(ours) if lines and headers.keys().isdisjoint(ours) else ""
        headers.update(ours)
        return headers, lines

    def simulate(self, x: Exchange, attempt: Attempt) -> None:
        """Rehearsals (`server.simulation`): a provider fails because the operator or a header says so."""
        if not self._policy.server.simulation:
            return
        fault = self._faults.get(attempt.provider)
        wanted = x.headers.get("x-llmshield-simulate", "")
        name, _, asked = wanted.partition("=")
        if name == attempt.provider:
            fault = asked or "503"
        if fault is None:
            return
        if fault.isdigit():
            raise UpstreamError("status", f"Simulated failure ({fault}).", status=int(fault))
        raise UpstreamError("connect", "Simulated failure.")

    async def run_guards(self, x: Exchange, call: Call, attempt: Attempt, dialect: Dialect) -> bool:
        """The attempt guards, in the order of their plugins; True when one changed the body."""
        changed = False
        for guard in call._attempt_guards:
            ends = len(attempt._ends)
            try:
                said = guard.run(attempt)
                if said is not None and isinstance(said, Awaitable):
                    said = await said
                if not (said is None or isinstance(said, Block | Skip)):
                    raise PluginError("A guard of attempts says Block, Skip or nothing.")
            except FAILURES as error:
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
                refusal = said.otherwise.error(guard.plugin) if said.otherwise is not None else None
                raise UpstreamError(
                    "circuit_open" if said.circuit else "skipped", said.reason, code=guard.plugin, refusal=refusal,
                    retry_after_s=said.retry_after_s,
                )  # fmt: skip
            for clamp in clamps:
                if isinstance(clamp, Clamp):
                    dialect.clamp(attempt.body, clamp.tokens)
                else:
                    dialect.limit_rounds(attempt.body, clamp.rounds)
                changed = True
            if clamps:
                attempt.output_bound = dialect.bound(attempt.body)
                x.trail.took.append(Took(guard.plugin, "attempt", "clamp", True, 0.0))
        return changed


def _may_ask(provider: Provider, call: Call, model: str) -> bool:
    """Whether the policy lets a provider be asked for this model, and for those that the call names beside it."""
    return not call.model or all(
        map(provider.models.allows, (model, *[other for _, other in call.other_models]))
    )


def _carries_credential(body: Mapping[str, Any]) -> bool:
    """Whether a body shows a key of the client's for a server of tools (MCP): OpenAI's `tools[].authorization` and
    `headers`, Anthropic's `mcp_servers[].authorization_token`."""
    tools, servers = body.get("tools"), body.get("mcp_servers")
    if type(tools) is list and any(
        type(tool) is dict and (tool.get("authorization") or tool.get("headers")) for tool in tools
    ):
        return True
    return type(servers) is list and any(
        type(server) is dict and server.get("authorization_token") for server in servers
    )


def timeouts_of(provider: Provider | None, *, streamed: bool) -> Timeouts:
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


def _within(timeouts: Timeouts, left: float) -> Timeouts:
    """The limits of an attempt in a call that may last `left` seconds more. Raises: UpstreamError when it is over."""
    if left <= 0:
        raise UpstreamError("total", "The call's whole time is over.")
    if left >= timeouts.total:
        return timeouts
    return Timeouts(
        min(timeouts.connect, left), min(timeouts.first_token, left), min(timeouts.idle, left), left
    )
