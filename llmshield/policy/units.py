"""Quantities as a policy writes them: `30s`, `200ms..2s`, `10MiB`, `5 USD/day`, `100/hour`, `50%`.

Rule 1: money is an integer number of pico-USD (10^-12 USD), through Decimal, and never a float.
Rule 2: a number without its unit is refused, and the message says how to write it.
Rule 3: every parser has its writer; `parse(write(x)) == x`.

A parser takes what YAML gives (text or a number) and raises `PydanticCustomError`, which becomes a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NoReturn, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from llmshield.policy.findings import did_you_mean
from llmshield.policy.masking import found
from llmshield.windows import zone_info, zones

# The standard library's `re` reads policy text here, which is bounded in length and written by the operator.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
DURATION = rf"^({_NUMBER})(ms|s|m|h|d)$"
SIZE = r"^([0-9]{1,12})(B|KiB|MiB|GiB|KB|MB|GB)$"
BUDGET = rf"^({_NUMBER}) USD/(minute|hour|day|week|month|[1-9][0-9]{{0,9}}(?:s|m|h|d))$"
PRICE = rf"^({_NUMBER}) USD/Mtok$"
FEE = rf"^({_NUMBER}) USD/call$"
RATE = r"^([1-9][0-9]{0,11})( tokens)?/(second|minute|hour|day)$"
PERCENT = r"^([0-9]{1,3}(?:\.[0-9]{1,3})?)%$"
HOST_PORT = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$"

PICO_PER_USD = 10**12
TOKENS_PER_MTOK = 10**6
MAX_PICO_USD = 2**62 - 1
"""What a store keeps in one account: 4.6 million USD, so that two still fit 64 bits."""

_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MAX_DURATION_MS = 366 * _DURATION_MS["d"]
_SHORTEST_ROLLING_MS = _DURATION_MS["m"]
"""A rolling window has steps of 10 seconds at the least; below a minute they would be too coarse."""
_SIZE_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_RATE_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}

Unit: TypeAlias = Literal["requests", "tokens"]


@dataclass(slots=True, frozen=True)
class Range:
    """From `lo` to `hi` seconds, both included."""

    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{write_duration(self.lo)}..{write_duration(self.hi)}"


@dataclass(slots=True, frozen=True)
class Budget:
    """At most `limit` pico-USD `per` calendar period (`day`), or in any stretch of a length (`24h`)."""

    limit: int
    per: str

    def __str__(self) -> str:
        return f"{write_usd(self.limit)} USD/{self.per}"


@dataclass(slots=True, frozen=True)
class Rate:
    """At most `limit` requests (or tokens) in `seconds`; `per` is the word for it."""

    limit: int
    seconds: int
    unit: Unit = "requests"

    @property
    def per(self) -> str:
        """`second`, `minute`, `hour` or `day`."""
        return next(word for word, seconds in _RATE_SECONDS.items() if seconds == self.seconds)

    def __str__(self) -> str:
        return f"{self.limit}{' tokens' if self.unit == 'tokens' else ''}/{self.per}"


@dataclass(slots=True, frozen=True)
class HostPort:
    """An address to listen on or to dial; `host` without the brackets of IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def duration(value: Any) -> float:
    """Seconds in `700ms`, `30s`, `5m`, `24h`, `1d`; at most 366 days."""
    match = _match(DURATION, value, "a duration such as 700ms, 30s, 5m or 24h", _bare_seconds(value))
    ms = Decimal(match[1]) * _DURATION_MS[match[2]]
    if ms != int(ms) or ms > _MAX_DURATION_MS:
        _refuse(value, "a duration in whole milliseconds, 366d at the most")
    return int(ms) / 1000


def positive_duration(value: Any) -> float:
    """A duration above zero: a timeout of nothing would refuse everything."""
    seconds = duration(value)
    if seconds == 0:
        _refuse(value, "a duration above zero")
    return seconds


def duration_range(value: Any) -> Range:
    """Two durations: `200ms..2s`."""
    text = value if isinstance(value, str) else ""
    lo, dots, hi = text.partition("..")
    if not dots or not hi:
        _refuse(value, "a range of two durations such as 200ms..2s")
    out = Range(duration(lo), duration(hi))
    if out.lo > out.hi:
        _refuse(value, "a range that starts with the shorter duration", f"{hi}..{lo}")
    return out


def size(value: Any) -> int:
    """Bytes in `10MiB`, `512KiB`, `1GiB`, `10MB`, `100B`."""
    match = _match(SIZE, value, "a size such as 512KiB or 10MiB", _bare(value, "B"))
    return int(match[1]) * _SIZE_BYTES[match[2]]


def budget(value: Any) -> Budget:
    """An amount of money per calendar period, `5 USD/day`, or in any stretch of time, `5 USD/24h`."""
    match = _match(
        BUDGET,
        value,
        "an amount per period such as 5 USD/day, 50 USD/month or (rolling) 5 USD/24h",
        _bare(value, " USD/day"),
    )
    per = match[2]
    if per[0].isdigit():
        ms = int(per[:-1]) * _DURATION_MS[per[-1]]
        if not _SHORTEST_ROLLING_MS <= ms <= _MAX_DURATION_MS:
            _refuse(value, "a rolling window from 1m to 366d")
        per = _write_rolling(ms)
    return Budget(_pico(value, match[1]), per)


def time_zone(value: Any) -> str:
    """The name of a time zone as the IANA database has it: `Europe/Berlin`."""
    if value == "UTC":
        return "UTC"
    if isinstance(value, str) and not value.startswith(("posix", "right", "local")):
        try:
            zone_info(value)
        except ValueError:
            pass  # the message below says what was expected
        else:
            if value in zones():  # a file system may take europe/berlin for it, and the next one does not
                return value
    raise PydanticCustomError(
        "time_zone",
        "found {found}, expected a time zone such as UTC or Europe/Berlin",
        {"found": found(value), "hint": did_you_mean(value, zones()) if isinstance(value, str) else ""},
    )


def price(value: Any) -> int:
    """pico-USD per token, from USD per million tokens: `0.15`, or `0.15 USD/Mtok`.

    Raises: PydanticCustomError for more than six decimals, which no whole pico-USD can hold.
    """
    text = number_text(value)
    if isinstance(value, str) or text is None:
        text = _match(PRICE, value, "USD per million tokens such as 0.15 or 0.15 USD/Mtok")[1]
    if not re.fullmatch(_NUMBER, text):
        _refuse(value, "USD per million tokens, as plain digits such as 0.15")
    pico = Decimal(text) * PICO_PER_USD / TOKENS_PER_MTOK
    if pico != int(pico):
        _refuse(value, "USD per million tokens with six decimals at the most")
    if pico > MAX_PICO_USD // TOKENS_PER_MTOK:
        _refuse(value, "a price below 9 million USD per million tokens")
    return int(pico)


def fee(value: Any) -> int:
    """pico-USD per call: `0.01 USD/call`."""
    return _pico(
        value, _match(FEE, value, "a price per call such as 0.01 USD/call", _bare(value, " USD/call"))[1]
    )


def rate(value: Any) -> Rate:
    """Requests or tokens per time: `100/hour`, `40000 tokens/minute`."""
    match = _match(RATE, value, "a rate such as 20/hour or 40000 tokens/minute", _bare(value, "/minute"))
    return Rate(int(match[1]), _RATE_SECONDS[match[3]], "tokens" if match[2] else "requests")


def percent(value: Any) -> float:
    """A share between 0 and 1, from `50%`."""
    match = _match(PERCENT, value, "a percentage such as 50%", _bare(value, "%"))
    share = Decimal(match[1]) / 100
    if share > 1:
        _refuse(value, "a percentage from 0% to 100%")
    return float(share)


def host_port(value: Any) -> HostPort:
    """An address with its port: `127.0.0.1:8787`, `[::1]:8787`, `localhost:0` (0: any free port)."""
    hint = (
        f"127.0.0.1{value}"
        if isinstance(value, str) and value.startswith(":")
        else _bare(value, "", "127.0.0.1:")
    )
    match = _match(HOST_PORT, value, "HOST:PORT such as 127.0.0.1:8787 or [::1]:8787", hint)
    if int(match[2]) > 65_535:
        _refuse(value, "HOST:PORT with a port up to 65535")
    return HostPort(match[1].strip("[]"), int(match[2]))


def write_duration(seconds: float) -> str:
    """The shortest spelling that `duration` reads back."""
    ms = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _DURATION_MS[unit] == 0:
            return f"{ms // _DURATION_MS[unit]}{unit}"
    return f"{ms}ms" if ms else "0s"


def _write_rolling(ms: int) -> str:
    """The one spelling of a rolling window's length: a day is `24h`, since `1d` reads like the calendar's."""
    units = ("d", "h", "m", "s") if ms != _DURATION_MS["d"] else ("h",)
    return next(f"{ms // _DURATION_MS[unit]}{unit}" for unit in units if ms % _DURATION_MS[unit] == 0)


def write_size(size: int) -> str:
    """The shortest spelling that `size` reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_BYTES[unit] == 0:
            return f"{size // _SIZE_BYTES[unit]}{unit}"
    return f"{size}B"


def write_usd(pico: int) -> str:
    """pico-USD as an exact decimal number of USD, without needless zeros."""
    whole, rest = divmod(pico, PICO_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def write_percent(share: float) -> str:
    """The spelling that `percent` reads back."""
    return f"{round(share * 100, 3):g}%"


def write_price(pico: int) -> str:
    """pico-USD per token as `price` reads it back."""
    return f"{write_usd(pico * TOKENS_PER_MTOK)} USD/Mtok"


def write_fee(pico: int) -> str:
    """pico-USD per call as `fee` reads it back."""
    return f"{write_usd(pico)} USD/call"


def number_text(value: Any) -> str | None:
    """How a YAML number was spelt, digit by digit; None if it is no number.

    A float has lost digits before anyone looks at it, so the YAML reader keeps the text beside it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return getattr(value, "text", None) or str(value)


def _pico(value: Any, usd: str) -> int:
    """USD as pico-USD; more than twelve decimals and more than an account holds are refused."""
    pico = Decimal(usd) * PICO_PER_USD
    if pico != int(pico):
        _refuse(value, "USD with twelve decimals at the most")
    if pico > MAX_PICO_USD:
        _refuse(value, "at most 4.6 million USD")
    return int(pico)


def _match(pattern: str, value: Any, expected: str, suggestion: str = "") -> re.Match[str]:
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    if match is None:
        _refuse(value, expected, suggestion)
    return match


def _bare(value: Any, unit: str, prefix: str = "") -> str:
    """What to write for a number that lacks its unit; empty for anything else."""
    text = number_text(value) if not isinstance(value, str) else value if value.isdecimal() else None
    return f"{prefix}{text}{unit}" if text and not text.startswith("-") else ""


def _bare_seconds(value: Any) -> str:
    text = _bare(value, "")
    return f"{text}s or {text}ms" if text else ""


def _refuse(value: Any, expected: str, suggestion: str = "") -> NoReturn:
    hint = f"write {suggestion}" if suggestion else ""
    raise PydanticCustomError(
        "unit",
        "found {found}, expected {expected}",
        {"found": found(value), "expected": expected, "hint": hint},
    )


def _schema(unit: str, pattern: str, examples: list[str], **also: Any) -> WithJsonSchema:
    """JSON Schema of a quantity; `x-unit` lets `schema` spell defaults, `also` is a second form (a number)."""
    text = {"type": "string", "pattern": pattern}
    return WithJsonSchema(
        {**({"anyOf": [text, also]} if also else text), "x-unit": unit, "examples": examples}
    )


_DURATION_SCHEMA = _schema("duration", DURATION, ["700ms", "30s", "5m", "24h"])
Duration: TypeAlias = Annotated[float, BeforeValidator(duration), _DURATION_SCHEMA]
"""Seconds, zero included."""
PositiveDuration: TypeAlias = Annotated[float, BeforeValidator(positive_duration), _DURATION_SCHEMA]
"""Seconds, above zero."""
_RANGE = rf"^{_NUMBER}(ms|s|m|h|d)\.\.{_NUMBER}(ms|s|m|h|d)$"
DurationRange: TypeAlias = Annotated[
    Range, BeforeValidator(duration_range), _schema("range of durations", _RANGE, ["200ms..2s"])
]
Size: TypeAlias = Annotated[int, BeforeValidator(size), _schema("size", SIZE, ["512KiB", "10MiB"])]
"""Bytes."""
Money: TypeAlias = Annotated[
    Budget,
    BeforeValidator(budget),
    _schema("money per period", BUDGET, ["5 USD/day", "50 USD/month", "5 USD/24h"]),
]
"""pico-USD per period."""
TimeZone: TypeAlias = Annotated[
    str,
    BeforeValidator(time_zone),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[A-Za-z][A-Za-z0-9_+/-]*$",
            "x-unit": "time zone",
            "examples": ["UTC", "Europe/Berlin"],
        }
    ),
]
"""A name of the IANA database."""
TokenPrice: TypeAlias = Annotated[
    int,
    BeforeValidator(price),
    _schema("USD per million tokens", PRICE, ["10 USD/Mtok"], type="number", minimum=0),
]
"""pico-USD per token."""
CallPrice: TypeAlias = Annotated[int, BeforeValidator(fee), _schema("USD per call", FEE, ["0.01 USD/call"])]
"""pico-USD per call."""
RateLimit: TypeAlias = Annotated[
    Rate, BeforeValidator(rate), _schema("rate", RATE, ["20/hour", "40000 tokens/minute"])
]
Percent: TypeAlias = Annotated[float, BeforeValidator(percent), _schema("percentage", PERCENT, ["50%"])]
"""A share between 0 and 1."""
Address: TypeAlias = Annotated[
    HostPort, BeforeValidator(host_port), _schema("HOST:PORT", HOST_PORT, ["127.0.0.1:8787", "[::1]:8787"])
]
