"""Prices: whole pico-USD, never in the client's favour, unknown stays unknown."""

import random
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Usage
from llmshield.policy.providers import Served
from llmshield.prices import (
    MOST_TOKENS,
    MTOK,
    PICO_PER_USD,
    Bound,
    ModelPrice,
    Prices,
    Quote,
    Rates,
    cost,
    max_output,
    sensible,
    usd,
)
from llmshield.testing import FrozenClock


def rate(usd_per_mtok: str) -> int:
    """pico-USD per million tokens."""
    return int(Decimal(usd_per_mtok) * PICO_PER_USD)


def pico(amount: str) -> int:
    return int(Decimal(amount) * PICO_PER_USD)


@dataclass
class FromPolicy:
    """Prices as a policy holds them: pico-USD per token."""

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    call: int | None = None


@dataclass
class Provider:
    base_url: str = ""
    prices: FromPolicy | None = None
    served: Served = field(default_factory=Served)


@pytest.fixture(scope="module")
def listed() -> Prices:
    prices = Prices({})
    prices.warm()
    return prices


MINI = ModelPrice(Rates(rate("0.15"), rate("0.60"), cache_read=rate("0.075")))
SONNET = ModelPrice(
    Rates(rate("3"), rate("15"), rate("0.30"), rate("3.75"), rate("6")),
    tiers=((200_000, Rates(rate("6"), rate("22.50"), rate("0.60"), rate("7.50"), rate("12"))),),
    per_tool=pico("0.01"),
)
AUDIO = ModelPrice(
    Rates(
        rate("2.5"),
        rate("10"),
        input_audio=rate("40"),
        output_audio=rate("80"),
        cache_audio=rate("5"),
        cache_read=rate("1.25"),
        input_image=rate("5"),
    )
)

BILLS = [
    # price, usage, hour-long cache, USD by hand
    (MINI, Usage(input=1000, output=500), False, "0.000450"),
    (MINI, Usage(input=1, output=0), False, "0.00000015"),
    (MINI, Usage(input=0, output=1), False, "0.0000006"),
    (MINI, Usage(input=0, output=0), False, "0"),
    (MINI, Usage(input=1000, output=10, cache_read=800), False, "0.000096"),  # 200*.15 + 800*.075 + 10*.6
    (MINI, Usage(input=1000, output=500, reasoning=300), False, "0.000450"),  # reasoning is output
    (MINI, Usage(input=100, output=0, cache_read=900), False, "0.0000075"),  # no more cached than sent
    (SONNET, Usage(input=10_000, output=1_000), False, "0.045"),
    (SONNET, Usage(input=10_000, output=1_000, cache_read=6_000, cache_write=3_000), False, "0.03105"),
    (SONNET, Usage(input=10_000, output=1_000, cache_read=6_000, cache_write=3_000), True, "0.0378"),
    (SONNET, Usage(input=200_000, output=1_000), False, "0.615"),
    (
        SONNET,
        Usage(input=200_001, output=1_000),
        False,
        "1.222506",
    ),  # every token at the long context's rates
    (SONNET, Usage(input=100, output=100, tool_requests=3), False, "0.0318"),
    (AUDIO, Usage(input=1_000, output=1_000, input_audio=400, output_audio=900), False, "0.0905"),
    (AUDIO, Usage(input=1_000, output=0, input_audio=400, cache_read=800), False, "0.00975"),
    (AUDIO, Usage(input=1_000, output=0, input_image=600), False, "0.004"),
    (ModelPrice(Rates(0, 0), per_call=pico("0.01")), Usage(input=9, output=9), False, "0.01"),
    (ModelPrice(Rates(0, 0)), Usage(input=9, output=9), False, "0"),
]


@pytest.mark.parametrize(("price", "usage", "long_cache", "expected"), BILLS)
def test_bills_by_hand(price: ModelPrice, usage: Usage, long_cache: bool, expected: str) -> None:
    assert usd(cost(price, usage, long_cache=long_cache)) == usd(pico(expected))


LIES = [
    -1,
    -(2**70),
    2**64,
    10**30,
    MOST_TOKENS + 1,
    None,
    "12",
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
]


@pytest.mark.parametrize("lie", LIES, ids=repr)
def test_a_lie_never_credits(lie: object) -> None:
    for name in (
        "input",
        "output",
        "cache_read",
        "cache_write",
        "reasoning",
        "input_audio",
        "output_audio",
        "input_image",
        "tool_requests",
    ):
        usage = Usage(input=100, output=100)
        honest = cost(
            SONNET, Usage(input=0 if name == "input" else 100, output=0 if name == "output" else 100)
        )
        setattr(usage, name, lie)

        assert cost(SONNET, usage) == honest
        assert sensible(usage) == (name not in {"input", "output"})


def test_what_is_sensible() -> None:
    assert not sensible(None)
    assert not sensible(Usage())
    assert not sensible(Usage(input=1, output=1, malformed=True))
    assert sensible(Usage(input=0, output=0))


KNOWN = [
    ("openai", "gpt-4o-mini", "0.15", "0.60", 16_384),
    ("openai", "gpt-4o-2024-08-06", "2.5", "10", 16_384),
    ("anthropic", "claude-sonnet-4-5-20250929", "3", "15", 64_000),
    ("gemini", "models/gemini-2.5-flash", "0.30", "2.50", 65_535),
    ("openai", "text-embedding-3-small", "0.02", None, None),
]


@pytest.mark.parametrize(("family", "model", "into", "out", "longest"), KNOWN)
def test_the_list_knows(
    listed: Prices, family: str, model: str, into: str, out: str | None, longest: int | None
) -> None:
    price = listed.price("any", family, model)

    assert price is not None
    assert price.rates.input == rate(into)
    assert price.rates.output == (None if out is None else rate(out))
    assert price.generates == (out is not None)
    assert price.max_output == longest
    assert price.source.startswith("genai-prices")


UNKNOWN = [
    ("openai", "no-such-model"),
    ("openai", "gpt-4o-mini-of-mine"),
    ("openai", ""),
    ("openai", "x" * 100_000),
    ("openai", "gpt-4o\n"),
    ("openai", "gpt-4o-audio-preview"),  # the list has its text price only
    ("gemini", "gemma-3"),  # zero in the list: nobody knows
    ("nosuchfamily", "gpt-4o"),
    ("anthropic", "gpt-4o"),
]


@pytest.mark.parametrize(("family", "model"), UNKNOWN, ids=lambda value: value[:20])
def test_nobody_knows(listed: Prices, family: str, model: str) -> None:
    assert listed.price("any", family, model) is None


def test_the_policy_comes_first_and_zero_is_a_price() -> None:
    free = Prices(
        {
            "local": Provider("http://127.0.0.1:1/v1", FromPolicy(0, 0)),
            "mine": Provider("", FromPolicy(3, 5, call=7)),
        }
    )
    zero = free.price("local", "openai", "whatever")
    mine = free.price("mine", "openai", "gpt-4o")

    assert zero is not None
    assert zero.generates
    assert Quote(zero, Bound(10**6)).worst_case(10**6) == 0
    assert mine is not None
    assert (mine.rates.input, mine.rates.output, mine.per_call) == (3 * MTOK, 5 * MTOK, 7)
    assert (mine.context, mine.max_output) == (128_000, 16_384)


def test_a_host_of_the_list_has_its_own_prices() -> None:
    prices = Prices(
        {"groq": Provider("https://api.groq.com/openai/v1"), "proxy": Provider("http://10.0.0.1/v1")}
    )

    assert prices.price("groq", "openai", "gpt-4o") is None
    assert prices.price("proxy", "openai", "gpt-4o") is not None


def test_how_it_is_served_changes_the_price(listed: Prices) -> None:
    plain = listed.price("any", "openai", "gpt-4o")
    priority = listed.price("any", "openai", "gpt-4o", (("service_tier", "priority"),))
    assert plain is not None
    assert priority is not None

    assert priority.rates.input > plain.rates.input
    assert listed.price("any", "openai", "gpt-4o", (("service_tier", "auto"),)) == plain
    assert listed.price("any", "openai", "gpt-4o", (("service_tier", "platinum"),)) is None
    assert listed.price("any", "anthropic", "claude-3-5-haiku-latest", (("speed", "fast"),)) is None


@pytest.mark.parametrize(("model", "options"), [("gpt-4o", ()), ("gpt-5.4", (("service_tier", "priority"),))])
def test_a_surcharge_is_on_each_rate_of_the_list(listed: Prices, model: str, options: Any) -> None:
    """A regional endpoint's; what the policy prices itself is as it says."""
    dearer = Prices(
        {
            "eu": Provider(served=Served.model_validate({"surcharge": "10%"})),
            "mine": Provider("", FromPolicy(3, 5), Served.model_validate({"surcharge": "10%"})),
        }
    )
    plain, eu = listed.price("any", "openai", model, options), dearer.price("eu", "openai", model, options)
    mine = dearer.price("mine", "openai", model)
    assert plain is not None
    assert eu is not None
    assert mine is not None

    assert plain.rates.times(11, 10) == eu.rates
    assert [(above, rates.times(11, 10)) for above, rates in plain.tiers] == list(eu.tiers)
    assert 3 * MTOK == mine.rates.input
    assert plain.per_tool == eu.per_tool


def test_long_context_reaches_the_dearest_tier(listed: Prices) -> None:
    price = listed.price("any", "gemini", "gemini-2.5-pro")
    assert price is not None

    assert price.worst(200_000) == (rate("1.25"), rate("10"))
    assert price.worst(200_001) == (rate("2.50"), rate("15"))


def test_prices_with_a_date_come_into_force() -> None:
    """One of the list's dated prices, asked for before and after its day."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    openai = next(provider for provider in get_snapshot().providers if provider.id == "openai")
    for model in openai.models:
        if isinstance(model.prices, list) and len(model.prices) == 2:
            later = model.prices[1]
            if (
                isinstance(later.constraint, StartDateConstraint)
                and later.prices.input_mtok != model.prices[0].prices.input_mtok
            ):
                break
    else:
        pytest.skip("the list has no such price")
    from datetime import UTC, datetime

    day = datetime.combine(later.constraint.start_date, datetime.min.time(), UTC).timestamp()
    prices = Prices({})
    with FrozenClock(day - 3600) as time:
        before = prices.price("any", "openai", model.id)
        time.advance(3601)
        after = prices.price("any", "openai", model.id)

    assert before != after


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-4o-mini", 16_384), ("gpt-4-0613", 8_192), ("gpt-5", 128_000), ("gpt-5-chat-latest", 16_384), ("o1-mini", 65_536),
     ("openai/gpt-4o", 16_384), ("claude-3-5-haiku-latest", 8_192), ("mine", None), ("", None)],
)  # fmt: skip
def test_longest_answers(model: str, expected: int | None) -> None:
    assert max_output(model) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, "0.000000000000"),
        (1, "0.000000000001"),
        (12_345_678_900, "0.012345678900"),
        (5 * 10**12, "5.000000000000"),
        (-1, "-0.000000000001"),
    ],
)
def test_amounts_are_written_exactly(amount: int, expected: str) -> None:
    assert usd(amount) == expected


_rates = st.builds(
    Rates,
    *[st.integers(0, 10**15)] * 2,
    *[st.none() | st.integers(0, 10**15)] * 10,
)
_prices = st.builds(
    ModelPrice,
    _rates,
    st.lists(st.tuples(st.integers(0, 10**6), _rates), max_size=2).map(
        lambda tiers: tuple(sorted(tiers, key=lambda tier: tier[0]))
    ),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    tools=st.dictionaries(st.sampled_from(("file_search", "code_interpreter")), st.integers(0, 10**12)),
    once=st.booleans(),
)
_count = st.integers(0, 2 * 10**6)
_usages = st.builds(
    Usage, input=_count, output=_count, cache_read=_count, cache_write=_count, reasoning=_count, input_audio=_count,
    output_audio=_count, input_image=_count, tool_requests=st.integers(0, 20), cache_write_1h=st.none() | _count,
    cache_audio=st.none() | _count, input_video=_count, output_image=st.none() | _count,
    tools=st.none() | st.dictionaries(st.sampled_from(("file_search", "shell")), st.integers(0, 20)),
)  # fmt: skip


def by_parts(price: ModelPrice, usage: Usage) -> Decimal:
    """The bill as one would add it up on paper, unrounded, in pico-USD."""
    assert usage.input is not None
    assert usage.output is not None
    rates = price.rates
    for above, more in price.tiers:
        if usage.input > above:
            rates = more
    searches = min(usage.tool_requests, 1) if price.once else usage.tool_requests
    bill = Decimal(price.per_call) + Decimal(searches) * price.per_tool
    bill += sum(price.tools.get(kind, 0) * uses for kind, uses in (usage.tools or {}).items())
    left = usage.input
    read = min(usage.cache_read, left)
    left -= read
    write = min(usage.cache_write, left)
    left -= write
    cached_audio = min(max(usage.cache_audio or 0, usage.input_audio - left), read, usage.input_audio)
    audio = min(usage.input_audio - cached_audio, left)
    image = min(usage.input_image, left - audio)
    video = min(usage.input_video, left - audio - image)
    long = min(usage.cache_write_1h or 0, write)

    def either(figure: int | None, plain: int) -> int:
        return plain if figure is None else figure

    read_rate, out = either(rates.cache_read, rates.input), rates.output or 0
    write_rate = either(rates.cache_write, rates.input)
    if rates.output_image is not None and usage.output_image is None:
        out = max(out, rates.output_image)
    spoken = min(usage.output_audio, usage.output)
    painted = min(usage.output_image or 0, usage.output - spoken) if rates.output_image is not None else 0
    thought = min(usage.reasoning, usage.output - spoken - painted)
    for tokens, figure in (
        (left - audio - image - video, rates.input),
        (audio, either(rates.input_audio, rates.input)),
        (image, either(rates.input_image, rates.input)),
        (video, either(rates.input_video, rates.input)),
        (read - cached_audio, read_rate),
        (cached_audio, either(rates.cache_audio, read_rate)),
        (write - long, write_rate),
        (long, max(write_rate, rates.cache_write_1h or 0)),
        (spoken, either(rates.output_audio, out)),
        (painted, either(rates.output_image, out)),
        (thought, either(rates.reasoning, out)),
        (usage.output - spoken - painted - thought, out),
    ):
        bill += Decimal(tokens) * figure / MTOK
    return bill


@settings(max_examples=300, deadline=None)
@given(_prices, _usages)
def test_the_parts_make_the_bill(price: ModelPrice, usage: Usage) -> None:
    """Integer, additive, rounded up once: never in the client's favour, never by a whole pico-USD."""
    paid, owed = cost(price, usage), by_parts(price, usage)

    assert type(paid) is int
    assert paid == int(owed.to_integral_value(ROUND_CEILING))


def _any_rates(rng: random.Random) -> Rates:
    def rate() -> int:
        return rng.choice((0, 1, 999_999, rng.randrange(10**6), rng.randrange(10 ** rng.randrange(6, 16))))

    more = [None if rng.random() < 0.4 else rate() for _ in range(10)]
    return Rates(rate(), None if rng.random() < 0.1 else rate(), *more)


def _any_price(rng: random.Random) -> ModelPrice:
    above = sorted(rng.sample(range(1, 10**6), rng.randrange(3)))
    return ModelPrice(
        _any_rates(rng), tuple((each, _any_rates(rng)) for each in above), rng.randrange(10**12), rng.randrange(10**12),
        tools={kind: rng.randrange(10**12) for kind in ("file_search", "shell") if rng.random() < 0.5},
        once=rng.random() < 0.5,
    )  # fmt: skip


def _any_usage(rng: random.Random) -> Usage:
    def count() -> int:
        return rng.choice((0, 0, 1, rng.randrange(100), rng.randrange(2 * 10**6)))

    def perhaps() -> int | None:
        return None if rng.random() < 0.5 else count()

    return Usage(
        input=count(), output=count(), cache_read=count(), cache_write=count(), reasoning=count(), input_audio=count(),
        output_audio=count(), input_image=count(), tool_requests=rng.randrange(20), cache_write_1h=perhaps(),
        cache_audio=perhaps(), input_video=count(), output_image=perhaps(),
        tools=None if rng.random() < 0.5 else {"file_search": rng.randrange(20), "code_interpreter": 3},
    )  # fmt: skip


_CASES = 25


def _bills(seed: int) -> None:
    """Some cases of price and usage: integer, additive, never in the client's favour, never by a whole unit."""
    rng = random.Random(seed)
    for _ in range(_CASES):
        price, usage = _any_price(rng), _any_usage(rng)
        paid, owed = cost(price, usage), by_parts(price, usage)

        assert type(paid) is int
        assert owed <= paid < owed + 1
        assert f"{Decimal(usd(paid)) * PICO_PER_USD:f}".partition(".")[0] == str(paid)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**63))
def test_five_thousand_bills(seed: int) -> None:
    _bills(seed)


@pytest.mark.nightly
def test_a_hundred_thousand_bills() -> None:
    settings(max_examples=100_000 // _CASES, deadline=None)(given(st.integers(0, 2**63))(_bills))()


@settings(max_examples=300, deadline=None)
@given(_prices, _usages, st.integers(1, 8))
def test_the_worst_case_is_never_less_than_the_bill(price: ModelPrice, usage: Usage, choices: int) -> None:
    assert usage.input is not None
    assert usage.output is not None
    fees = sum(price.tools.get(kind, 0) * uses for kind, uses in (usage.tools or {}).items())
    bound = Bound(usage.input, choices, usage.tool_requests, long_cache=True, media=True, fees=fees)
    output = -(-usage.output // choices)

    assert Quote(price, bound).worst_case(output) >= cost(price, usage, long_cache=True)


@settings(max_examples=300, deadline=None)
@given(_prices, st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 10**16))
def test_what_is_affordable_is_affordable_and_no_more(
    price: ModelPrice, tokens: int, choices: int, amount: int
) -> None:
    bound = Bound(tokens, choices)
    bought = Quote(price, bound).affordable_output(amount)

    if bought < 0:
        assert Quote(price, bound).worst_case(0) > amount
    else:
        assert Quote(price, bound).worst_case(bought) <= amount or bought == MOST_TOKENS
        assert (
            Quote(price, bound).worst_case(bought + 1) > amount
            or bought >= MOST_TOKENS
            or price.worst(tokens)[1] == 0
        )


@pytest.mark.nightly
def test_the_parts_make_the_bill_many_times() -> None:
    many = settings(max_examples=100_000, deadline=None)

    @many
    @given(_prices, _usages)
    def check(price: ModelPrice, usage: Usage) -> None:
        assert cost(price, usage) == int(by_parts(price, usage).to_integral_value(ROUND_CEILING))

    check()


def test_names_from_clients_do_not_fill_the_memory(listed: Prices) -> None:
    for index in range(10_000):
        listed.price("any", "openai", f"made-up-{index}")

    assert len(listed._found) <= 4_096


def test_a_policys_price_is_no_price_for_a_dearer_way() -> None:
    """A caller can't double the bill under the policy's price: not by a tier, not by writing to a cache."""
    prices = Prices({"p": Provider(prices=FromPolicy(3 * 10**6, 15 * 10**6))})
    prices.warm()

    def price(model: str, family: str, *options: tuple[str, str]) -> ModelPrice | None:
        return prices.price("p", family, model, options)

    for option in (("service_tier", "priority"), ("speed", "fast"), ("inference_geo", "us")):
        assert price("gpt-4o", "openai", option) is None
    for option in (("service_tier", "flex"), ("service_tier", "auto"), ("inference_geo", "global")):
        assert price("gpt-4o", "openai", option) is not None

    claude = price("claude-sonnet-4-5", "anthropic")
    assert claude is not None
    assert claude.rates.cache_write == rate("3.75")  # 1.25 times input, as in the list
    assert claude.rates.cache_write_1h == rate("6")
    assert cost(claude, Usage(input=1000, output=0, cache_write=1000), long_cache=True) == pico("0.006")
    said = Prices({"p": Provider(prices=FromPolicy(3 * 10**6, 15 * 10**6, cache_write=4 * 10**6))})
    said.warm()
    claude = said.price("p", "anthropic", "claude-sonnet-4-5")
    assert claude is not None
    assert claude.rates.cache_write == rate("4")
