"""`server:` and `defaults:`: where calls come in, what is let through unread, and how plugins run."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from llmshield.policy.globs import Matcher, compile_glob
from llmshield.policy.section import Count, Flag, Section
from llmshield.policy.units import Address, CallPrice, Duration, HostPort, PositiveDuration, Size, TimeZone

Mode: TypeAlias = Literal["enforce", "monitor", "disabled"]
OnError: TypeAlias = Literal["closed", "open"]
PathGlob: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=r"^/", max_length=256)]
Origin: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=r"^(\*|https?://[^/\s]+)$")]
StoreUrl: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z][a-z0-9+]*://\S*$")]


class Limits(Section):
    """What a request may be."""

    body: Size = Field(default=10 * 2**20, description="Bytes of a request, after decompression.")
    depth: Annotated[Count, Field(le=500)] = Field(
        default=64, description="Levels of JSON inside each other."
    )
    head: PositiveDuration = Field(default=10.0, description="Time for the request's head to arrive.")
    receive: PositiveDuration = Field(default=60.0, description="Time for the whole request to arrive.")
    connections: Count | None = Field(
        default=None,
        description="Clients connected at once; without it, half of the files that the process may open. Who comes"
        " above that gets 503 and Retry-After.",
    )
    call: PositiveDuration | None = Field(
        default=None,
        description="Time for a call with all its attempts, waits and resumptions; 10m without it, or the longest"
        " `total` of a provider.",
    )


class PathRule(Section):
    """An exception to `unknown_traffic` for paths that no dialect knows; the first match wins."""

    match: PathGlob = Field(description="A path with wildcards, such as `/v1/audio/*`.")
    action: Literal["pass", "deny"] = Field(description="What happens to a call on such a path.")
    price: CallPrice | None = Field(
        default=None, description="What a call costs; without it, a call under a cap is denied."
    )

    @cached_property
    def _matcher(self) -> Matcher:
        return compile_glob(self.match)

    def matches(self, path: str) -> bool:
        """Whether this rule is for `path` (decoded, canonical)."""
        return self._matcher(path)


class Cors(Section):
    """Which web pages may call."""

    origins: tuple[Origin, ...] = Field(
        default=(), description="Origins such as `https://app.example.com`, or `*`."
    )


class Idempotency(Section):
    """How calls with an Idempotency-Key are answered when they are sent again."""

    keep: PositiveDuration = Field(default=86_400.0, description="How long an answer is kept.")
    largest: Size = Field(
        default=2**20, description="Bytes of an answer that are kept; of a larger one only that it was given."
    )
    wait: Duration = Field(
        default=10.0, description="How long a call waits while the same one is under way, before it gets 409."
    )


class Keys(Section):
    """How long providers' keys are used before they are read again."""

    lifetime: PositiveDuration = Field(
        default=300.0, description="A key is read again after this time, without a restart."
    )
    outage: PositiveDuration = Field(
        default=3600.0,
        description="How much longer the last value goes on while a key can't be read; then its provider is asked no"
        " more.",
    )


class Server(Section):
    """Where calls come in and where state is kept."""

    listen: Address = Field(default=HostPort("127.0.0.1", 8787), description="Address of the data port.")
    admin: Address | None = Field(
        default=HostPort("127.0.0.1", 9787),
        description="Address of the admin port; `null` for none. Never the data port.",
    )
    store: StoreUrl = Field(
        default="memory://",
        description="Shared state: `memory://` (lost at exit), `sqlite:///path`, `redis://host:6379/0`;"
        " `env://NAME`: its URL is in that environment variable.",
    )
    time_zone: TimeZone = Field(
        default="UTC", description="Whose days, weeks and months budgets follow, such as `Europe/Berlin`."
    )
    state_dir: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Folder for what each machine keeps of a shared store's money book, apart from it: which book it"
        " is, and the journals. `$XDG_STATE_HOME/llmshield`, or `~/.local/state/llmshield`, without it.",
    )
    unknown_traffic: Literal["deny", "pass"] = Field(
        default="deny", description="What happens to a path or content type that no dialect knows."
    )
    paths: tuple[PathRule, ...] = Field(default=(), description="Exceptions to `unknown_traffic`.")
    limits: Limits = Field(default=Limits(), description="What a request may be.")
    cors: Cors | None = Field(default=None, description="Which web pages may call; none without it.")
    idempotency: Idempotency | None = Field(
        default=Idempotency(),
        description="What an Idempotency-Key does; `null`: nothing.",
    )
    keys: Keys = Field(default=Keys(), description="How providers' keys are kept up to date.")
    simulation: Flag = Field(
        default=False,
        description="Obey `SIMULATE_<PROVIDER>_FAILURE` and fault headers: for rehearsals, not for production.",
    )
    debug_headers: Flag = Field(
        default=False, description="Send `x-llmshield-plugins`: what each plugin decided."
    )


class Defaults(Section):
    """What holds for every plugin that does not say otherwise."""

    mode: Mode = Field(
        default="enforce",
        description="`enforce`, `monitor` (decide and count, change nothing) or `disabled`.",
    )
    on_error: OnError = Field(
        default="closed",
        description="What a crashing or slow plugin means: `closed` refuses the call, `open` lets it go on.",
    )
    timeout: PositiveDuration = Field(
        default=0.3, description="Time for one hook; a share is added per 10,000 characters of text."
    )
