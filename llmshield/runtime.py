"""Everything that one policy needs to run: chain, engine, pools, store, keys, record and metrics; made and ended
together. A mount holds one. What plugins may use of it they ask for by type (`resources.get(Ledger)`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from llmshield import __version__, clock, production
from llmshield import chain as chains
from llmshield.audit import Audit
from llmshield.chain import Chain
from llmshield.circuits import Circuits
from llmshield.dialects._app import AppJson
from llmshield.engine import Engine
from llmshield.errors import BookLost, PluginError, ShieldError, StoreError
from llmshield.hookspecs import Resources
from llmshield.idempotency import Repeats
from llmshield.identity import Identity
from llmshield.ledger import Ledger
from llmshield.local_state import LocalState
from llmshield.logs import log
from llmshield.metrics import Metrics
from llmshield.observe import Observer
from llmshield.policy import Policy
from llmshield.prices import Prices
from llmshield.probing import Probe
from llmshield.provider_keys import ProviderKeys
from llmshield.provider_settings import ProviderSettings
from llmshield.series import label_of
from llmshield.stores import Store, open_store
from llmshield.traffic import Dialects
from llmshield.transport import HttpTransport, Transport
from llmshield.usage import usage

T = TypeVar("T")

_CIRCUIT = {"closed": 0, "half_open": 1, "open": 2}
_KEY = {"good": 0, "outage": 1, "lost": 2, "revoked": 3}


class Runtime:
    """One policy at work. `mount` names where calls come in, for the record; `issuing` is the certificate (PEM) of our
    own authority, if this is a mount that has one: no provider may show a certificate of its making.

    Raises: PluginError when a plugin can't be made.
    """

    def __init__(self, policy: Policy, *, mount: str, issuing: bytes = b"") -> None:
        self.store: Store = open_store(policy.server.store)
        self.settings = ProviderSettings(policy.providers, self.store)
        policy = self.policy = replace(policy, providers=self.settings.providers)
        self.mount = mount
        self._issuing = issuing
        self.health: Callable[[], str | None] = _healthy
        """Why not all of the mount is up, if so."""
        self.dialects = Dialects(
            [
                AppJson(
                    app.matches, request=app.texts.request, reply=app.texts.reply, stream=app.texts.stream
                )
                for app in policy.apps
            ]
        )
        self.chain: Chain = chains.build(policy)
        self.metrics = Metrics()
        self.audit = Audit(policy.audit, policy.hash)
        self.prices = Prices(policy.providers)
        folder = policy.server.state_dir
        self.ledger = Ledger(
            self.store, LocalState(self.store.url, Path(folder).expanduser() if folder else None)
        )
        self.circuits = Circuits(policy.providers)
        self.identity = Identity(policy, self.store)
        self.keys = ProviderKeys(
            {name: provider.api_key for name, provider in policy.providers.items()}, policy.base or Path(), self.store,
            lifetime_s=policy.server.keys.lifetime, outage_s=policy.server.keys.outage,
        )  # fmt: skip
        self.transports: dict[str, Transport] = {}
        self.ready = False
        self._stopping = False
        self._started_at = clock.now()
        self._engine: Engine | None = None
        self._probe: Probe | None = None

    @property
    def engine(self) -> Engine:
        """The engine; there is one once `start` is through."""
        if self._engine is None:
            raise ShieldError("The policy is not running yet; start it first.")
        return self._engine

    @property
    def probe(self) -> Probe:
        """Asks single providers; there is one once `start` is through."""
        if self._probe is None:
            raise ShieldError("The policy is not running yet; start it first.")
        return self._probe

    @property
    def started(self) -> bool:
        """Whether `start` is through: the store is open, plugins run. It stays so while calls drain."""
        return self._engine is not None

    async def start(self) -> None:
        """Open what is needed, warm the detectors. Raises: ShieldError with the remedy; nothing stays open then."""
        try:
            await asyncio.to_thread(production.refuse_unsafe, self.policy)
            await self.ledger.start()  # opens the store
            await self.keys.start()
            await self.settings.start()
            self.audit.start()
            await asyncio.to_thread(self.prices.warm)
            await self.identity.start()
            await self.circuits.start(self.store)
            resources = _House(
                {Policy: self.policy, Ledger: self.ledger, Prices: self.prices, Circuits: self.circuits,
                 Metrics: self.metrics, Store: self.store}
            )  # fmt: skip
            await self.chain.start(resources)
            for name, provider in self.policy.providers.items():
                if provider.base_url:
                    connect = (provider.connect.host, provider.connect.port) if provider.connect else None
                    self.transports[name] = HttpTransport(
                        provider.base_url, connect=connect, not_by=self._issuing
                    )
        except BaseException:
            await self.close()
            raise
        self.metrics.policy(self.policy.hash)
        observer = Observer(self.metrics, self.audit)
        notary = observer if observer.required else None
        self._probe = Probe(
            self.policy, self.chain, self.dialects, self.transports, self.keys, observer, notary
        )
        self._engine = Engine(
            self.policy, self.chain, self.dialects, self.transports, self.keys, observer, _simulated(self.policy), self.identity,
            Repeats(self.policy.server.idempotency, self.store) if self.policy.server.idempotency is not None else None,
            notary, keeps_texts=observer.keeps_texts,
        )  # fmt: skip
        self.ready = True

    async def drain(self, seconds: float) -> None:
        """Not ready from now on; calls under way may end, then the rest are ended."""
        self.ready = False
        self._stopping = True
        if self._engine is not None:
            await self._engine.drain(seconds)

    async def close(self) -> None:
        """Let go of everything, each thing whatever became of the others."""
        self.ready = False
        await self.chain.close()
        for transport in self.transports.values():
            await transport.close()
        self.transports.clear()
        await self.keys.close()
        await self.settings.close()
        await self.identity.close()
        await self.circuits.close()
        await self.ledger.close()
        await self.store.close()
        await asyncio.to_thread(self.audit.close)

    # -- what the admin port tells -----------------------------------------------------------------------------

    async def unready(self) -> str | None:
        """Why calls can't be served now, or None. Only what fails closed counts."""
        if self._stopping:
            return "stopping"
        if not self.ready:
            return "starting"
        if not self.audit.ready:
            return "the audit log can't be written"
        if (reason := self.health()) is not None:
            return reason
        if any(entry.use == "cost_cap" for entry in self.policy.plugins):
            try:
                await self.ledger.writable()
            except BookLost as error:
                return str(error)
            except StoreError:
                return "the store can't be reached"
            return self.ledger.closed or None
        return None

    async def render_metrics(self) -> bytes:
        """The exposition for Prometheus, rendered off the event loop."""
        self._count_states()
        return await asyncio.to_thread(self.metrics.render)

    def _count_states(self) -> None:
        states = self.metrics.gauge(
            "llmshield_circuit_state", "Circuits that had failures: 0 closed, 1 half open, 2 open.", "provider", "model"
        )  # fmt: skip
        states.clear()  # circuits that have nothing to tell any more are forgotten
        for provider, models in self.circuits.snapshot().items():
            for model, circuit in models.items():
                states.set(_CIRCUIT[circuit["state"]], provider, label_of(model))
        self.metrics.gauge(
            "llmshield_circuits_alone", "1 while the store is away and each process has circuits of its own."
        ).set(int(self.circuits.alone))
        keys = self.metrics.gauge(
            "llmshield_provider_key_state", "Providers' keys: 0 good, 1 the last value goes on, 2 lost, 3 revoked.", "provider"
        )  # fmt: skip
        for name in self.policy.providers:
            keys.set(_KEY[self.keys.status(name)["state"]], name)

    async def status(self) -> dict[str, Any]:
        """What runs here, and each provider's figures of today."""
        figures = self.metrics.providers()
        providers: dict[str, Any] = {}
        circuits = self.circuits.snapshot()
        for name, provider in self.policy.providers.items():
            circuit = self.circuits.state(name)
            empty = {
                "model": None, "last_ok": None, "failures": 0, "last_failure": None, "last_reason": None,
                "today": {"requests": 0, "ok": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0},
                "remaining": {"requests": None, "tokens": None}, "success_rate": None,
            }  # fmt: skip
            providers[name] = {
                "active": self.circuits.active(name), "dialect": provider.dialect, "circuit": circuit,
                "circuits": circuits.get(name, {}), "key": self.keys.status(name), **figures.get(name, empty),
            }  # fmt: skip
        return {
            "version": __version__,
            "policy": {"file": self.policy.file, "hash": self.policy.hash},
            "mount": self.mount,
            "ready": await self.unready() is None,
            "uptime_s": round(clock.now() - self._started_at, 1),
            "plugins": self.chain.modes,
            "providers": providers,
            "circuits_alone": self.circuits.alone,
            "audit": {
                "written": self.audit.written,
                "dropped": self.audit.dropped,
                "failure": self.audit.failure,
                "head": self.audit.head,
            },
        }

    async def usage(self) -> dict[str, Any]:
        """What tenants spent, used and may still, over all processes of the store. Raises: StoreError."""
        return await usage(self.ledger, self.store, self.chain.plugins, tuple(self.policy.tenants))


def _healthy() -> None:
    """A mount of one part is up as soon as it answers."""


class _House(Resources):
    """What plugins may use, by type."""

    def __init__(self, things: Mapping[type[Any], Any]) -> None:
        self._things = dict(things)

    def get(self, kind: type[T]) -> T:
        """The one thing of this type. Raises: PluginError when there is none."""
        thing: T | None = self._things.get(kind)
        if thing is None:
            names = ", ".join(sorted(each.__name__ for each in self._things))
            raise PluginError(f"There is no {kind.__name__} to lend; there is: {names}.")
        return thing


def _simulated(policy: Policy) -> dict[str, str]:
    """Providers that fail because `SIMULATE_<PROVIDER>_FAILURE` is set: true for no connection, or a status."""
    if not policy.server.simulation:
        return {}
    faults = {}
    for name in policy.providers:
        value = os.environ.get(f"SIMULATE_{name.upper().replace('-', '_')}_FAILURE", "").lower()
        if value and value not in {"0", "false", "no"}:
            faults[name] = value if value.isdigit() else "503"
            log.warning("simulated_failure", provider=name, fault=faults[name])
    return faults
