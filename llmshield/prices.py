"""What a call may cost and what it did cost, in whole pico-USD (10^-12 USD).

Prices come from the policy (`providers.NAME.prices`) or from the list that genai-prices carries, offline. Zero
written in the policy is a price; zero or nothing in the list means that nobody knows. What is not known stays
None: `cost_cap` refuses it under a cap.

Rule 1: no floats. A rate is an integer of pico-USD per million tokens, so that USD 0.0125 per million is exact.
Rule 2: sums first, one rounding at the end, up: never in the client's favour, never by more than 1 pico-USD.
Rule 3: where usage can't tell two rates apart, the dearer one counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmshield import clock
from llmshield.call import Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo
    from genai_prices.types import Provider as ListedProvider

PICO_PER_USD = 10**12
MTOK = 10**6

MOST_TOKENS = 10**9
"""More tokens than this in one call are no report but nonsense: the largest context is 10^7."""

_LONGEST_NAME = 200
"""Model names come from clients and are matched against the list's patterns."""

_MOST_CACHED = 4096

_LIST_ID: Mapping[str, str] = MappingProxyType(
    {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
)

# https://platform.openai.com/docs/models, https://docs.anthropic.com/en/docs/about-claude/models/overview,
# https://ai.google.dev/gemini-api/docs/models: the longest answer, by the start of the model's name; the
# longest start wins. A bound above it is an error at the provider, so what we insert stays below.
_MAX_OUTPUT: tuple[tuple[str, int], ...] = tuple(
    sorted(
        {
            "gpt-3.5": 4_096, "gpt-4": 8_192, "gpt-4-turbo": 4_096, "gpt-4-1106": 4_096, "gpt-4-0125": 4_096,
            "gpt-4o": 16_384, "gpt-4o-2024-05-13": 4_096, "chatgpt-4o": 16_384, "gpt-4.1": 32_768, "gpt-4.5": 16_384,
            "gpt-5": 128_000, "gpt-5-chat": 16_384, "gpt-5.1-chat": 16_384, "gpt-5.2-chat": 16_384,
            "o1": 100_000, "o1-mini": 65_536, "o1-preview": 32_768, "o3": 100_000, "o4-mini": 100_000,
            "claude-3": 4_096, "claude-3-5": 8_192, "claude-3-7": 64_000, "claude-sonnet-4": 64_000,
            "claude-opus-4": 32_000, "claude-opus-4-5": 64_000, "claude-haiku-4": 64_000,
            "gemini-1.5": 8_192, "gemini-2.0": 8_192, "gemini-2.5": 65_535, "gemini-3": 65_535,
        }.items(),
        key=lambda item: -len(item[0]),
    )
)  # fmt: skip

# https://ai.google.dev/gemini-api/docs/models: windows that the list leaves out.
_MILLION = ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-3")

# https://ai.google.dev/gemini-api/docs/pricing: up to Gemini 2.5 grounding is billed by the prompt, from 3 by the search.
_ONE_FEE = ("gemini-1", "gemini-2")

# What a body may say of how it is served without being dearer than the plain price.
_PLAIN_OPTIONS = frozenset(
    {
        "auto",
        "default",
        "standard",
        "standard_only",
        "on_demand",
        "flex",
        "global",
        "not_available",
        "scale",
        "unspecified",
        "service_tier_unspecified",
    }
)


# https://platform.claude.com/docs/en/manage-claude/data-residency: "a 1.1x multiplier on all token pricing categories". It is
# asked for in the body, or is the workspace's default.
_IN_US = ("inference_geo", "us")

_SHARES = 10**6
"""A surcharge is reckoned in millionths."""


class Rates(NamedTuple):
    """pico-USD per million tokens of each kind. None: as the plain `input` or `output`."""

    input: int
    output: int | None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    cache_audio: int | None = None
    input_image: int | None = None
    reasoning: int | None = None
    output_audio: int | None = None
    input_video: int | None = None
    output_image: int | None = None

    def times(self, over: int, under: int) -> Rates:
        """Each rate times `over / under`, rounded up."""
        return Rates(*[None if rate is None else -(-rate * over // under) for rate in self])  # type: ignore[arg-type]

    def dearest(self, long_cache: bool, media: bool) -> tuple[int, int]:
        """What a token that is sent, and one that is produced, may cost at the most."""
        into = max(self.input, self.cache_read or 0, self.cache_write or 0)
        out = max(self.output or 0, self.reasoning or 0)
        if long_cache:
            into = max(into, self.cache_write_1h or 0)
        if media:
            into = max(
                into,
                self.input_audio or 0,
                self.cache_audio or 0,
                self.input_image or 0,
                self.input_video or 0,
            )
            out = max(out, self.output_audio or 0)
        out = max(out, self.output_image or 0)  # a model that paints may do so unasked
        return into, out


@dataclass(slots=True, frozen=True)
class ModelPrice:
    """The price of one model at one provider.

    `tiers` are `(above, rates)`: from more than `above` input tokens on, all tokens of the call cost these
    rates. `per_call` and `per_tool` are pico-USD for the call itself and for each search of the web; `once` says
    that a call with several searches pays for one. `tools` has the fees of all server-side tools whose fee is
    known, by kind. `context` is the context window in tokens and `max_output` the longest answer, where they are
    known. `source` says where the price is from.
    """

    rates: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    per_call: int = 0
    per_tool: int = 0
    context: int | None = None
    max_output: int | None = None
    source: str = "policy"
    tools: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    once: bool = False

    @property
    def generates(self) -> bool:
        """Whether the price of an answer is known; an embedding model has none."""
        return self.rates.output is not None

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a call with so many input tokens."""
        found = self.rates
        for above, rates in self.tiers:
            if input_tokens > above:
                found = rates
        return found

    def worst(self, input_bound: int, *, long_cache: bool = False, media: bool = False) -> tuple[int, int]:
        """The dearest input and output rate that up to `input_bound` input tokens can reach.

        `long_cache`: the body asks for the hour-long cache. `media`: it holds or asks for anything but text.
        """
        into, out = self.rates.dearest(long_cache, media)
        for above, rates in self.tiers:
            if input_bound > above:
                tier_into, tier_out = rates.dearest(long_cache, media)
                into, out = max(into, tier_into), max(out, tier_out)
        return into, out


class PriceOverride(Protocol):
    """Prices as the policy gives them: pico-USD per token, and per call."""

    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def cache_read(self) -> int | None: ...
    @property
    def cache_write(self) -> int | None: ...
    @property
    def call(self) -> int | None: ...


class HowServed(Protocol):
    """What a policy says of a provider's defaults; `surcharge` is a share of the list's rates."""

    @property
    def service_tier(self) -> str | None: ...
    @property
    def inference_geo(self) -> str | None: ...
    @property
    def surcharge(self) -> float: ...


class PricedProvider(Protocol):
    """What `Prices` wants to know of a provider."""

    @property
    def base_url(self) -> str: ...
    @property
    def prices(self) -> Any: ...
    @property
    def served(self) -> HowServed: ...


class Prices:
    """Every price under one policy. Looking one up again costs one dictionary access.

    `version` names the list, for the record of each call.
    """

    def __init__(self, providers: Mapping[str, PricedProvider] | None = None) -> None:
        self._providers = dict(providers or {})
        self._found: dict[tuple[str, str, str, tuple[tuple[str, str], ...]], ModelPrice | None] = {}
        self._hour = -1
        self._list: DataSnapshot | None = None
        self.version = ""

    def warm(self) -> None:
        """Load the list (0.4-0.7 s, 20 MB); readiness waits for it, the first call must not."""
        if self._list is None:
            from importlib.metadata import version

            from genai_prices.data_snapshot import get_snapshot

            self._list = get_snapshot()
            self.version = f"genai-prices {version('genai-prices')}"

    def price(
        self, provider: str, family: str, model: str, options: tuple[tuple[str, str], ...] = ()
    ) -> ModelPrice | None:
        """What `model` costs at `provider`, or None if nobody knows.

        `options` are settings of the body that change the price (`service_tier`, `speed`), lower case. A
        price is looked up again every hour: the list knows prices with a date or a time of day.
        """
        hour = int(clock.now()) // 3600
        if hour != self._hour or len(self._found) >= _MOST_CACHED:
            self._found.clear()
            self._hour = hour
        key = (provider, family, model, options)
        try:
            return self._found[key]
        except KeyError:
            price = self._found[key] = self._look_up(provider, family, model, options)
            return price

    def models(self, provider: str, family: str) -> tuple[str, ...]:
        """The models that the list has for a provider, in order of the alphabet."""
        known = self._providers.get(provider)
        listed = self._provider_in_list(known.base_url if known is not None else "")
        if listed is None:
            assert self._list is not None
            id = _LIST_ID.get(family, family)
            listed = next((each for each in self._list.providers if each.id == id), None)
        return tuple(sorted(info.id for info in listed.models)) if listed is not None else ()

    def _look_up(
        self, provider: str, family: str, model: str, options: tuple[tuple[str, str], ...]
    ) -> ModelPrice | None:
        if family == "anthropic" and _IN_US in options:
            rest = tuple([option for option in options if option != _IN_US])
            plain = self.price(provider, family, model, rest)
            if plain is None:
                return None
            return _times(plain, 11, 10)
        known = self._providers.get(provider)
        override: PriceOverride | None = known.prices if known is not None else None
        info = self._in_list(known.base_url if known is not None else "", family, model)
        if override is not None:
            if any(value not in _PLAIN_OPTIONS for _, value in options):
                return None  # the policy says what the plain way costs; a priority tier is dearer
            return _from_policy(override, model, info)
        price = _from_list(info, model, dict(options), self.version) if info is not None else None
        if price is None or known is None or not known.served.surcharge:
            return price
        return _times(price, _SHARES + math.ceil(known.served.surcharge * _SHARES - 1e-6), _SHARES)

    def _in_list(self, base_url: str, family: str, model: str) -> ModelInfo | None:
        name = model.removeprefix("models/")
        if not 0 < len(name) <= _LONGEST_NAME:
            return None
        provider = self._provider_in_list(base_url)
        assert self._list is not None
        try:
            return self._list.find_provider_model(name, provider, _LIST_ID.get(family, family), None)[1]
        except LookupError:
            return None

    def _provider_in_list(self, base_url: str) -> ListedProvider | None:
        """The list's provider of this address; None for a proxy or a host of one's own: priced as its family."""
        self.warm()
        assert self._list is not None
        try:
            return self._list.find_provider(None, None, base_url) if base_url else None
        except LookupError:
            return None


def _times(price: ModelPrice, over: int, under: int) -> ModelPrice:
    """The price with each rate for tokens times `over / under`."""
    tiers = tuple([(above, rates.times(over, under)) for above, rates in price.tiers])
    return replace(price, rates=price.rates.times(over, under), tiers=tiers)


class Bound(NamedTuple):
    """What a call can grow to: `input` tokens sent, `choices` answers, `tools` searches of the web.

    `long_cache` and `media` as in `ModelPrice.worst`; `fees` are pico-USD for other tools, `extra_output` tokens
    that are billed as output beside the answer (a prediction that was not used).
    """

    input: int
    choices: int = 1
    tools: int = 0
    long_cache: bool = False
    media: bool = False
    fees: int = 0
    extra_output: int = 0


class Quote:
    """The most that a call within `bound` can cost at `price`: rates looked up once, for several output bounds."""

    __slots__ = ("_fixed", "_out")

    @classmethod
    def at(cls, fixed: int, out: int) -> Quote:
        """From figures that are known: what the call costs without its answer, and each output token for all
        choices together, in pico-USD times a million."""
        quote = cls.__new__(cls)
        quote._fixed = fixed
        quote._out = out
        return quote

    @property
    def figures(self) -> tuple[int, int]:
        """What `at` takes."""
        return self._fixed, self._out

    def __init__(self, price: ModelPrice, bound: Bound) -> None:
        into, out = price.worst(bound.input, long_cache=bound.long_cache, media=bound.media)
        fees = price.per_call + bound.tools * price.per_tool + bound.fees
        self._fixed = bound.input * into + bound.extra_output * out + fees * MTOK
        self._out = out * bound.choices

    def worst_case(self, output: int) -> int:
        """pico-USD that the call can cost at the most, with `output` tokens for each choice."""
        return -(-(self._fixed + output * self._out) // MTOK)

    def affordable_output(self, amount: int) -> int:
        """The largest output bound whose `worst_case` is within `amount`; -1 if not even none is."""
        left = amount * MTOK - self._fixed
        if left < 0:
            return -1
        return left // self._out if self._out else MOST_TOKENS


def cost(price: ModelPrice, usage: Usage, *, long_cache: bool = False) -> int:
    """pico-USD that this usage costs. What is not a sensible figure counts as nothing, never as a credit.

    `long_cache`: the body asked for the hour-long cache, so what was written to a cache is priced as that.
    """
    total_in, total_out = tokens(usage.input), tokens(usage.output)
    rates = price.rates_for(total_in)
    if rates.output_image is None and not (
        usage.cache_read or usage.cache_write or usage.input_audio or usage.input_image or usage.input_video
        or usage.output_audio or usage.reasoning or usage.tool_requests or usage.tools
    ):  # fmt: skip
        return -(-(total_in * rates.input + total_out * (rates.output or 0)) // MTOK) + price.per_call
    read = min(tokens(usage.cache_read), total_in)
    write = min(tokens(usage.cache_write), total_in - read)
    fresh = total_in - read - write
    audio = tokens(usage.input_audio)
    cached_audio = min(max(tokens(usage.cache_audio), audio - fresh), read, audio)
    audio = min(audio - cached_audio, fresh)
    image = min(tokens(usage.input_image), fresh - audio)
    video = min(tokens(usage.input_video), fresh - audio - image)
    write_rate = _or(rates.cache_write, rates.input)
    long_rate = max(write_rate, rates.cache_write_1h or 0)
    kept = tokens(usage.cache_write_1h) if usage.cache_write_1h is not None else write if long_cache else 0
    kept = min(kept, write)
    read_rate = _or(rates.cache_read, rates.input)
    out_rate = rates.output or 0
    spoken = min(tokens(usage.output_audio), total_out)
    picture = rates.output_image
    painted = 0
    if picture is not None:
        if usage.output_image is None:  # where the report is silent, all of it may be a picture
            picture = out_rate = max(picture, out_rate)
        painted = min(tokens(usage.output_image), total_out - spoken)
    thought = min(tokens(usage.reasoning), total_out - spoken - painted)
    searches = tokens(usage.tool_requests)
    fees = (min(searches, 1) if price.once else searches) * price.per_tool
    for kind, uses in (usage.tools or {}).items():
        fees += tokens(uses) * price.tools.get(kind, 0)
    parts = (
        (fresh - audio - image - video) * rates.input
        + audio * _or(rates.input_audio, rates.input)
        + image * _or(rates.input_image, rates.input)
        + video * _or(rates.input_video, rates.input)
        + (read - cached_audio) * read_rate
        + cached_audio * _or(rates.cache_audio, read_rate)
        + (write - kept) * write_rate
        + kept * long_rate
        + (total_out - spoken - painted - thought) * out_rate
        + spoken * _or(rates.output_audio, out_rate)
        + painted * _or(picture, out_rate)
        + thought * _or(rates.reasoning, out_rate)
    )
    return -(-parts // MTOK) + price.per_call + fees


def sensible(usage: Usage | None) -> bool:
    """Whether a provider's report can be charged: both figures there, whole, and of a possible size."""
    if usage is None or usage.malformed:
        return False
    into, out = usage.input, usage.output
    return type(into) is int and 0 <= into <= MOST_TOKENS and type(out) is int and 0 <= out <= MOST_TOKENS


def tokens(figure: object) -> int:
    """A figure of a report as a number of tokens: 0 for whatever is none."""
    return figure if type(figure) is int and 0 < figure <= MOST_TOKENS else 0


def max_output(model: str) -> int | None:
    """The longest answer of a model in tokens, if it is one that we know."""
    name = model.rpartition("/")[2]
    for start, most in _MAX_OUTPUT:
        if name.startswith(start):
            return most
    return None


def usd(picousd: int) -> str:
    """An amount as an exact decimal number of USD with twelve digits."""
    sign, whole = ("-", -picousd) if picousd < 0 else ("", picousd)
    return f"{sign}{whole // PICO_PER_USD}.{whole % PICO_PER_USD:012d}"


def _or(rate: int | None, plain: int) -> int:
    return plain if rate is None else rate


def _from_policy(override: PriceOverride, model: str, info: ModelInfo | None) -> ModelPrice:
    def per_mtok(rate: int | None) -> int | None:
        return None if rate is None else rate * MTOK

    listed = {} if info is None else vars(info.get_prices(datetime.fromtimestamp(clock.now(), UTC)))
    fees = _fees(listed)

    def as_dear(key: str) -> int | None:
        """What the list asks for a write to a cache, in proportion to the policy's price of input."""
        plain, rate = _at(listed.get("input_mtok"), 0), _at(listed.get(key), 0)
        return -(-override.input * MTOK * rate // plain) if plain and rate else None

    write = per_mtok(override.cache_write)
    return ModelPrice(
        Rates(
            override.input * MTOK,
            override.output * MTOK,
            cache_read=per_mtok(override.cache_read),
            cache_write=as_dear("cache_write_mtok") if write is None else write,
            cache_write_1h=as_dear("cache_write_1h_mtok"),
        ),
        per_call=override.call or 0,
        context=_context(info, model),
        max_output=max_output(model),
        tools=MappingProxyType(fees),
        per_tool=fees.get("web_search", 0),
        once=model.startswith(_ONE_FEE),
    )


def _fees(prices: Mapping[str, Any]) -> dict[str, int]:
    """What one use of each server-side tool costs, as far as the list has it."""
    keys = (("web_search", "web_searches_kcount"), ("file_search", "storage_searches_kcount"))
    return {kind: _per(prices[key], 1000) for kind, key in keys if prices.get(key)}


def _from_list(info: ModelInfo, model: str, options: dict[str, str], version: str) -> ModelPrice | None:
    """The list's entry in our figures; None where it lacks something that this call may be charged for."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    listed = {
        (key, value)
        for variant in info.price_variants or ()
        if variant.constraint is None or variant.constraint.active(now)
        for key, value in variant.when.items()
    }
    if any(item not in listed and item[1] not in _PLAIN_OPTIONS for item in options.items()):
        return None  # served in a way that the list has no price for: likely dearer
    prices = dict(vars(info.get_prices(now, options or None)))
    starts = sorted({tier.start for price in prices.values() for tier in getattr(price, "tiers", ())})
    try:
        rates = _rates(prices, 0)
        tiers = tuple((start, _rates(prices, start + 1)) for start in starts)
    except LookupError:
        return None
    if any(word in model for word in ("audio", "realtime", "live")) and rates.input_audio is None:
        return None  # speaks, and the list has its text price only
    fees = _fees(prices)
    return ModelPrice(
        rates,
        tiers,
        per_call=_per(prices.get("requests_kcount"), 1000),
        per_tool=fees.get("web_search", 0),
        context=_context(info, model),
        max_output=max_output(model),
        source=version,
        tools=MappingProxyType(fees),
        once=model.startswith(_ONE_FEE),
    )


def _context(info: ModelInfo | None, model: str) -> int | None:
    """The context window, as the list or, where it has none, the provider's page says."""
    known = info.context_window if info is not None else None
    if known is None and model.removeprefix("models/").startswith(_MILLION):
        return 1_048_576
    if known is not None and info is not None and _longest_tier(info) >= known:
        return 1_000_000  # a window that is asked for in a header: the list has its price, not its size
    return known


def _longest_tier(info: ModelInfo) -> int:
    prices = vars(info.get_prices(datetime.fromtimestamp(clock.now(), UTC))).values()
    return max((tier.start for price in prices for tier in getattr(price, "tiers", ())), default=-1)


def _rates(prices: dict[str, Any], input_tokens: int) -> Rates:
    """The rates that hold for a call of so many input tokens. Raises: LookupError without an input price."""

    def rate(*keys: str) -> int | None:
        found = [_at(prices.get(key), input_tokens) for key in keys]
        known = [figure for figure in found if figure is not None]
        return max(known) if known else None

    plain = rate("input_mtok")
    if not plain:
        raise LookupError("no input price")
    return Rates(
        input=plain,
        output=rate("output_mtok", "output_video_mtok") or None,  # usage does not say which tokens were films
        cache_read=rate("cache_read_mtok", "cache_image_read_mtok"),
        cache_write=rate("cache_write_mtok"),
        cache_write_1h=rate("cache_write_1h_mtok"),
        input_audio=rate("input_audio_mtok"),
        cache_audio=rate("cache_audio_read_mtok"),
        input_image=rate("input_image_mtok"),
        reasoning=rate("output_reasoning_mtok"),
        output_audio=rate("output_audio_mtok"),
        input_video=rate("input_video_mtok"),
        output_image=rate("output_image_mtok"),
    )


def _at(price: Any, input_tokens: int) -> int | None:
    """pico-USD per million tokens of one price of the list, rounded up to a whole one."""
    if price is None:
        return None
    figure = price
    if not isinstance(price, Decimal):
        figure = price.base
        for tier in price.tiers:
            if input_tokens > tier.start:
                figure = tier.price
    return int((figure * PICO_PER_USD).to_integral_value(ROUND_CEILING))


def _per(price: Any, units: int) -> int:
    """pico-USD for one of `units`."""
    figure = _at(price, 0) or 0
    return -(-figure // units)
