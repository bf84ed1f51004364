"""Asking one provider on purpose, to see whether it answers: for its models, or for a few tokens.

A list of models costs nothing and needs nothing but address, TLS and key. A question goes the way of every call: hooks,
attempt guards (caps, circuits, limits), money reserved before it is sent, one record of the decision; routes do not
count, since one provider is meant. It asks for at most `MOST_TOKENS`, and says the same word each time. Nothing of an
answer is told but how much of it there was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmshield import clock
from llmshield.attempts import Attempts, timeouts_of
from llmshield.chain import Chain, run_step
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, load_reply
from llmshield.endings import Endings
from llmshield.errors import CallError, UpstreamError
from llmshield.exchange import Exchange, Incoming, new_id
from llmshield.gathering import Gathering
from llmshield.identity import Caller
from llmshield.policy import Policy, Provider
from llmshield.provider_keys import Keys
from llmshield.relay import read_all
from llmshield.replies import Replies
from llmshield.traffic import Dialects
from llmshield.translation import Translations
from llmshield.transport import Timeouts, Transport
from llmshield.verdicts import Block, Target
from llmshield.witness import Notary, Witness

MOST_TOKENS = 16
"""OpenAI's Responses API takes no less."""
TENANT = "admin"
"""Whose budget pays where nobody else is named."""
LONGEST_S = 30.0
_MOST_BYTES = 8 * 2**20
_LISTS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "openai": ("openai_chat", "/v1/models", {}),
    "anthropic": ("anthropic_messages", "/v1/models", {"anthropic-version": "2023-06-01"}),
    "gemini": ("gemini", "/v1beta/models", {}),
}
"""Each family's dialect that knows its list of models, where that is, and which headers it wants."""


@dataclass(slots=True, frozen=True)
class Probed:
    """How it went. `reason` is one of the reasons of failed attempts, `detail` a sentence; times in ms."""

    ok: bool
    ms: float
    status: int | None = None
    reason: str | None = None
    detail: str = ""
    models: int | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_picousd: int | None = None


class Probe:
    """Asks the providers of one policy. The arguments are those of the engine."""

    def __init__(
        self,
        policy: Policy,
        chain: Chain,
        dialects: Dialects,
        transports: Mapping[str, Transport],
        keys: Keys,
        observe: Callable[[Exchange], None],
        notary: Notary | None = None,
    ) -> None:
        self._policy = policy
        self._chain = chain
        self._dialects = dialects
        self._transports = transports
        self._keys = keys
        self._observe = observe
        self._witness = Witness(notary) if notary is not None else None
        self._endings = Endings()
        attempts = Attempts(policy, transports, keys, Translations(dialects), {})
        self._gathering = Gathering(attempts, self._endings, Replies(dialects, "", debug=False))

    async def models(self, name: str) -> Probed:
        """Ask for the list of models, with the provider's own key. Never raises for what the provider does."""
        began = clock.monotonic()
        provider = self._policy.providers[name]
        status = None
        try:
            if name not in self._transports or provider.dialect is None:
                raise UpstreamError("skipped", "The wrapped app can't be asked for its models.")
            dialect_name, path, more = _LISTS[provider.dialect]
            dialect = self._dialects[dialect_name]
            asked = WireRequest("GET", path, "", dict(more))
            call = dialect.read_call(new_id(), "models", asked, {})
            where, query = dialect.target(call, "")
            key = self._keys.get(name)
            headers = {"accept": "application/json", "accept-encoding": "identity", **more}
            if key is not None:
                headers |= dialect.credentials(key)
            upstream = await self._transports[name].ask(
                WireRequest("GET", where, query, headers), _timeouts(provider)
            )
            try:
                status = upstream.status
                body = await read_all(upstream, _MOST_BYTES)
            except BaseException:
                upstream.close()
                raise
            if status != 200:
                raise dialect.read_error(status, upstream.headers, body)
            return Probed(True, _ms(began), status, models=await asyncio.to_thread(_count, body))
        except UpstreamError as error:
            return Probed(False, _ms(began), error.status or status, error.reason, str(error))

    async def generate(self, name: str, model: str, tenant: str = TENANT) -> Probed:
        """Ask for a few tokens, at this tenant's cost. Never raises for what the provider, or a plugin, says."""
        arrival = Incoming("POST", b"/v1/chat/completions", b"", [], "", _no_body, mount="admin")
        x = Exchange(arrival, _Nobody(), new_id(), clock.monotonic())
        x.method, x.path, x.operation, x.why = (
            "POST",
            "/v1/chat/completions",
            "generate",
            "asked by an administrator",
        )
        x.dialect, x.chain = self._dialects["openai_chat"], self._chain
        x.caller = Caller(tenant, self._tier(tenant), None, None, "")
        x.deadline, x.witness = x.started_at + LONGEST_S, self._witness
        try:
            x.status = 200
            return await self._asked(x, Target(name, model), tenant)
        except CallError as error:
            x.error, x.status = error, error.status or 400
            return Probed(False, _ms(x.started_at), None, error.kind, error.message, model=model)
        except UpstreamError as error:
            x.status = 502
            return Probed(False, _ms(x.started_at), error.status, error.reason, str(error), model=model)
        finally:
            if x.call is not None:
                ends, x.call._on_end, x.call._ask = x.call._on_end, [], None
                await self._endings.run(ends, x.call, x.id)
            self._observe(x)

    async def _asked(self, x: Exchange, target: Target, tenant: str) -> Probed:
        """Through the hooks, the guards and the provider. Raises: CallError, UpstreamError."""
        assert x.dialect is not None
        words = {
            "model": target.model,
            "messages": [{"role": "user", "content": _WORD}],
            "max_tokens": MOST_TOKENS,
        }
        request = WireRequest("POST", x.path, "", {}, dump(words))
        call = x.call = x.dialect.read_call(x.id, "generate", request, words)
        call.tenant, call.tier = tenant, self._tier(tenant)
        known = self._policy.tenants.get(tenant)
        if known is not None:
            call.tags.update(known.tags)
        for step in self._chain.pre_request:
            verdict = await run_step(step, x.trail, call)
            if isinstance(verdict, Block):
                raise verdict.error(step.plugin)
        await self._gathering.ask_aside(x, call, target, _WORD, "", MOST_TOKENS)
        attempt = x.attempts[-1]
        usage = attempt.usage
        return Probed(
            True, _ms(x.started_at), attempt.status, model=attempt.model,
            input_tokens=usage.input if usage is not None else None,
            output_tokens=usage.output if usage is not None else None, cost_picousd=attempt.cost_picousd,
        )  # fmt: skip

    def _tier(self, tenant: str) -> str | None:
        known = self._policy.tenants.get(tenant)
        return known.tier if known is not None else None


_WORD = "ping"


async def _no_body(limit: int) -> bytes:
    raise RuntimeError("nobody sent this")


class _Nobody:
    """A client that gets nothing: a question aside is answered to whoever asked it."""

    started = False
    lingers = True
    at_once = None

    async def start(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def end(self) -> None: ...

    def cut(self) -> None: ...


def _timeouts(provider: Provider) -> Timeouts:
    given = timeouts_of(provider, streamed=False)
    return Timeouts(
        min(given.connect, LONGEST_S), min(given.first_token, LONGEST_S), min(given.idle, LONGEST_S),
        min(given.total, LONGEST_S),
    )  # fmt: skip


def _count(body: bytes) -> int:
    """How many models a list has. Raises: UpstreamError for what is no list."""
    try:
        tree: Any = load_reply(body)
    except ValueError:
        tree = None
    found = tree.get("data", tree.get("models")) if isinstance(tree, dict) else None
    if not isinstance(found, list):
        raise UpstreamError("malformed", "The provider answered, but with no list of models.", status=200)
    return len(found)


def _ms(began: float) -> float:
    return round((clock.monotonic() - began) * 1000, 1)
