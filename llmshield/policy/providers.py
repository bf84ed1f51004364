"""`providers:`: who is asked, at which address, with which key, for how long and at what price.

A provider named `app` is the application that the middleware wraps: it exists without an entry and can only be
given a price, models and a circuit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from llmshield.policy.globs import Matcher, compile_globs
from llmshield.policy.section import Count, Flag, Globs, Name, Section
from llmshield.policy.units import Address, CallPrice, HostPort, Percent, PositiveDuration, TokenPrice
from llmshield.redact import redact
from llmshield.resolvers import SecretRef

Family: TypeAlias = Literal["openai", "anthropic", "gemini"]

APP = "app"
BASE_URLS: Mapping[Family, str] = MappingProxyType(
    {
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
    }
)
"""Where a family's calls go without `base_url`. By their SDKs' rule only OpenAI's holds the version."""


def _reference(value: Any) -> SecretRef:
    """A reference such as `env://NAME`; the literal itself never reaches a message."""
    if isinstance(value, str) and (ref := SecretRef.parse(value)) is not None:
        return ref
    what = "a literal" if isinstance(value, str | int | float) and not isinstance(value, bool) else "no text"
    raise PydanticCustomError(
        "literal_secret",
        "found {what}, expected a reference to a key",
        {
            "what": what,
            "hint": "put the key into an environment variable and write env://NAME, or file://PATH",
        },
    )


Secret: TypeAlias = Annotated[
    SecretRef,
    BeforeValidator(_reference),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*://\S+$", "examples": ["env://OPENAI_API_KEY"]}
    ),
]
_NOT_PARAMETERS = frozenset(
    {"model", "messages", "input", "contents", "prompt", "system", "instructions", "systemInstruction", "conversation",
     "previous_response_id", "cachedContent", "stream", "stream_options", "background", "n", "best_of", "candidateCount",
     "generationConfig", "tools", "tool_choice", "toolConfig", "functions", "mcp_servers", "container", "modalities",
     "responseModalities", "audio", "web_search_options"}
)  # fmt: skip
"""What is asked, how many answers come back, and what costs more than tokens: guards judge these as the client sent
them, and money is reserved for them, so that no provider adds them behind their backs."""


def _parameters(value: Any) -> Any:
    """Fields of a body that a policy may set."""
    for name in value if isinstance(value, dict) else ():
        if name in _NOT_PARAMETERS or (
            isinstance(name, str) and "_" in name and _camel(name) in _NOT_PARAMETERS
        ):
            raise PydanticCustomError(
                "choice",
                "found {found}, expected a setting of the model such as temperature",
                {"found": repr(name), "hint": "that is the caller's to say; leave it out"},
            )
    return value


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


Parameters: TypeAlias = Annotated[
    dict[Name, Any], BeforeValidator(_parameters, json_schema_input_type=dict[str, Any])
]
Prompt: TypeAlias = Annotated[str, StringConstraints(strict=True, max_length=20_000)]
Url: TypeAlias = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=2000)]


class Timeout(Section):
    """How long each phase of an attempt may take."""

    connect: PositiveDuration = Field(default=5.0, description="Name lookup, TCP and TLS.")
    first_token: PositiveDuration = Field(
        default=60.0, description="From the request's end to the first output."
    )
    idle: PositiveDuration = Field(default=60.0, description="Between two events of a stream.")
    total: PositiveDuration = Field(default=600.0, description="The whole attempt.")


class Circuit(Section):
    """When a failing provider is left alone, model by model."""

    failures: Count = Field(default=5, description="Failures inside `window` that open the circuit.")
    rate: Percent | None = Field(
        default=None, description="They must be this share of the calls in `window` as well; any without it."
    )
    slow: PositiveDuration | None = Field(
        default=None,
        description="A stream whose first token comes later counts as a failure; none does without it.",
    )
    window: PositiveDuration = Field(default=30.0, description="Time in which failures are counted.")
    open_for: PositiveDuration = Field(
        default=60.0, description="First break; it doubles with each failed probe."
    )
    max_open: PositiveDuration = Field(default=600.0, description="Longest break.")


class Models(Section):
    """Which models may be asked for at this provider; `deny` wins."""

    allow: Globs = Field(default=("*",), description="Models that may be asked for.")
    deny: Globs | None = Field(
        default=None, description="Models that may not, whatever `allow` says; case does not matter."
    )

    @cached_property
    def _allowed(self) -> Matcher:
        return compile_globs(self.allow)

    @cached_property
    def _denied(self) -> Matcher:
        return compile_globs(self.deny or (), ignore_case=True)

    @cached_property
    def open(self) -> bool:
        """Whether every model may be asked for."""
        return self.allow == ("*",) and not self.deny

    def allows(self, model: str) -> bool:
        """Whether `model`, as it is sent to the provider, may be asked for."""
        return self._allowed(model) and not self._denied(model)


class Prices(Section):
    """pico-USD per token; in YAML USD per million tokens. They replace the bundled list for this provider."""

    input: TokenPrice = Field(description="Tokens that are sent.")
    output: TokenPrice = Field(description="Tokens that are produced.")
    cache_read: TokenPrice | None = Field(
        default=None, description="Tokens read from the provider's cache; else as `input`."
    )
    cache_write: TokenPrice | None = Field(
        default=None, description="Tokens written to its cache; else as `input`."
    )
    call: CallPrice | None = Field(default=None, description="Each call, besides its tokens.")


class Served(Section):
    """How a provider serves calls that do not say so themselves, where that is dearer than the plain way."""

    service_tier: Name | None = Field(
        default=None, description="The project's tier: `priority`. Not where `prices` says what it costs."
    )
    inference_geo: Name | None = Field(default=None, description="The workspace's region at Anthropic: `us`.")
    surcharge: Percent = Field(
        default=0.0, description="On all rates for tokens of the bundled list: what a regional endpoint adds."
    )


class System(Section):
    """Words around the system prompt of calls that land at a provider."""

    prefix: Prompt = Field(default="", description="Stands before what the client says as the system.")
    suffix: Prompt = Field(default="", description="Stands behind it.")


ReplyHeader: TypeAlias = Literal[
    "set-cookie", "openai-organization", "openai-project", "x-goog-user-project", "anthropic-organization-id"
]


class ProviderShape(Section):
    """One provider as the policy writes it."""

    dialect: Family | None = Field(
        default=None, description="What it speaks: `openai`, `anthropic` or `gemini`."
    )
    base_url: Url | None = Field(
        default=None, description="Its address; an OpenAI one ends in `/v1`, the others hold no version."
    )
    api_key: Secret | None = Field(
        default=None,
        description="Where its key is: `env://NAME`, `file://path`, `enc://...` and others (docs/keys.md). Absent: the client's own"
        " key is passed on.",
    )
    connect: Address | None = Field(
        default=None, description="HOST:PORT to dial instead; name and TLS stay `base_url`'s."
    )
    insecure: Flag = Field(
        default=False, description="Allow plain http to another machine; keys and texts are then readable."
    )
    timeout: Timeout = Field(default=Timeout(), description="How long an attempt may take.")
    circuit: Circuit | None = Field(default=None, description="When it is left alone; never without this.")
    models: Models = Field(default=Models(), description="Which models may be asked for.")
    prices: Prices | None = Field(
        default=None, description="USD per million tokens, instead of the bundled list."
    )
    served: Served = Field(
        default=Served(),
        description="How it serves calls that do not say so, where that is dearer: its price is reserved then.",
    )
    reply_headers: tuple[ReplyHeader, ...] = Field(
        default=(),
        description="Headers of its answers that clients get, besides the harmless ones: `set-cookie`, or those that name"
        " the account (`openai-organization`).",
    )
    region: Name | None = Field(default=None, description="Where it computes, for `regions` of a route.")
    system: System | None = Field(
        default=None, description="Words around the system prompt of calls that land here."
    )
    parameters: Parameters = Field(
        default={},
        description="Settings of the model such as `temperature`, in its own dialect (Gemini: of `generationConfig`), where the client set none.",
    )


@dataclass(slots=True, frozen=True)
class Provider:
    """One provider, ready to be asked. Times in seconds; `base_url` has no slash at its end.

    `dialect` is the family it speaks; None only for the wrapped app, which speaks what the client speaks.
    """

    name: str
    dialect: Family | None
    base_url: str
    api_key: SecretRef | None
    connect: HostPort | None
    timeout: Timeout
    circuit: Circuit | None
    models: Models
    prices: Prices | None
    served: Served = field(default_factory=Served)
    reply_headers: frozenset[str] = frozenset()
    region: str | None = None
    system: System | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    given: frozenset[str] = frozenset()
    """The keys that the policy writes; the others are defaults."""

    def __repr__(self) -> str:  # an address may hold a login
        return f"<Provider {self.name!r} {self.dialect} {redact(self.base_url)!r}>"

    @property
    def adapts(self) -> bool:
        """Whether calls are changed when they land here."""
        return self.system is not None or bool(self.parameters)


def build(name: str, shape: ProviderShape) -> Provider:
    """The provider that a policy's entry describes, with its family's address filled in."""
    base_url = shape.base_url or (BASE_URLS[shape.dialect] if shape.dialect else "")
    return Provider(
        name=name,
        dialect=shape.dialect,
        base_url=base_url.rstrip("/"),
        api_key=shape.api_key,
        connect=shape.connect,
        timeout=shape.timeout,
        circuit=shape.circuit,
        models=shape.models,
        prices=shape.prices,
        served=shape.served,
        reply_headers=frozenset(shape.reply_headers),
        region=shape.region,
        system=shape.system,
        parameters=shape.parameters,
        given=frozenset(shape.model_fields_set),
    )
