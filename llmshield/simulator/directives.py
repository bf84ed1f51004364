"""Directives: what a test asks the simulator to do, as `key=value` pairs.

They come from the settings, the request body's `metadata.simulate`, the model name behind an `@`, the prompt
(`[[simulate ...]]`) and the header `x-simulate`; later ones in this list win key by key. Pairs are parted by
`,` `;` or `&`; a bare word is a fault; several faults are joined by `+`; values may be percent-encoded.
An unknown key or fault is an error, so that a misspelt test cannot pass by accident.
"""

from __future__ import annotations

import dataclasses
from urllib.parse import unquote

DEFAULT_AFTER = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Directives:
    """What one call is asked to do. Times are seconds, sizes bytes.

    fault         names from the fault table
    after         events sent before a stream fault strikes (default 3); of a whole body half is sent
    first         the fault strikes the first N calls with these directives, then all is well
    skip          the fault spares the first N calls
    rate          the share of calls that the fault strikes, 0.0-1.0, from a seeded generator
    retry_after   the Retry-After header as given (`2`, `0.5`, `garbage`), or `date`, `date+30`, `past`
    retry_after_ms  the retry-after-ms header as given
    should_retry  the x-should-retry header as given
    body          an error's body: json (default), html, empty, text, truncated
    message, code, type  replace these fields of an error object
    location      where a redirect points
    size          bytes of a bomb, a big event, a comment flood, a big head
    ttft          seconds before the first event (or before a whole reply)
    delay         seconds between events
    jitter        share of ttft and delay that varies at random, 0.0-1.0
    pause         seconds that slow faults wait (default 30; drip: 0.05 a byte)
    split         the reply's bytes are written in pieces of this size
    encoding      gzip, deflate, br, zstd, or auto (what accept-encoding asks for)
    text          the answer's text
    tokens        answer with exactly this many tokens of filler
    chars         characters in a delta (default 4, a token)
    ascii         1: every character beyond ASCII is sent as a JSON escape
    stable        1: ids and dates are the same in every reply
    thinking      1: reasoning although the request does not ask; redacted: sealed blocks (Anthropic)
    citations     1: the answer cites the user's own words, in the dialect's way, with title and offsets
    args          echo: free strings of generated tool arguments hold the last user message
    usage         IN:OUT, the tokens that are reported
    cached, cache_write, reasoning  tokens of these kinds that are reported
    finish        the finish reason as given, in the dialect's own word
    name          who the reply says it is from
    """

    fault: tuple[str, ...] = ()
    after: int = DEFAULT_AFTER
    first: int = 0
    skip: int = 0
    rate: float = 1.0
    retry_after: str | None = None
    retry_after_ms: str | None = None
    should_retry: str | None = None
    body: str = "json"
    message: str | None = None
    code: str | None = None
    type: str | None = None
    location: str | None = None
    size: int | None = None
    ttft: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    pause: float | None = None
    split: int = 0
    encoding: str | None = None
    text: str | None = None
    tokens: int | None = None
    chars: int = 4
    ascii: bool = False
    stable: bool = False
    thinking: str | None = None
    citations: bool = False
    args: str | None = None
    usage: str | None = None
    cached: int = 0
    cache_write: int = 0
    reasoning: int | None = None
    finish: str | None = None
    name: str | None = None


class DirectiveError(ValueError):
    """A directive that cannot be read; the message names it and lists what exists."""


_FIELDS = {f.name: str(f.type) for f in dataclasses.fields(Directives)}
_CHOICES = {
    "body": ("json", "html", "empty", "text", "truncated"),
    "encoding": ("gzip", "deflate", "br", "zstd", "auto"),
    "thinking": ("0", "1", "redacted"),
    "args": ("echo",),
}
NAMES = tuple(_FIELDS)


def seconds(value: str) -> float:
    """`0.2`, `200ms` or `2s` as seconds. Raises: DirectiveError for anything else."""
    text = value.strip()
    for suffix, factor in (("ms", 0.001), ("s", 1.0)):
        if text.endswith(suffix):
            text, scale = text[: -len(suffix)], factor
            break
    else:
        scale = 1.0
    try:
        number = float(text) * scale
    except ValueError:
        raise DirectiveError(f"expected seconds such as 0.2, 200ms or 2s, got {value!r}") from None
    if not 0 <= number < 1e9:
        raise DirectiveError(f"expected seconds of 0 or more, got {value!r}")
    return number


def _value(key: str, value: str, faults: frozenset[str]) -> object:
    if key == "fault":
        names = tuple(part for part in value.replace(" ", "+").split("+") if part and part != "none")
        for name in names:
            if name not in faults:
                raise DirectiveError(f"unknown fault {name!r}; there are: {', '.join(sorted(faults))}")
        return names
    if key in ("ttft", "delay", "pause"):
        return seconds(value)
    if key in _CHOICES and value not in _CHOICES[key]:
        raise DirectiveError(f"{key}: expected one of {', '.join(_CHOICES[key])}, got {value!r}")
    kind = _FIELDS[key]
    try:
        if kind.startswith("int"):
            number = int(value)
            if number < (1 if key == "chars" else 0):
                raise DirectiveError(
                    f"{key}: expected {'1' if key == 'chars' else '0'} or more, got {value!r}"
                )
            return number
        if kind.startswith("float"):
            return float(value)
    except DirectiveError:
        raise
    except ValueError:
        raise DirectiveError(f"{key}: expected a number, got {value!r}") from None
    if kind == "bool":
        return value.lower() in ("1", "true", "yes", "on")
    if key == "usage":
        parts = value.split(":")
        if len(parts) != 2 or not all(p.isdigit() for p in parts):
            raise DirectiveError(f"usage: expected IN:OUT, got {value!r}")
    return value


def parse(text: str, faults: frozenset[str]) -> dict[str, object]:
    """Directive text as a mapping of fields. Raises: DirectiveError for an unknown key, fault or bad value."""
    found: dict[str, object] = {}
    for pair in text.replace("&", ",").replace(";", ",").split(","):
        pair = pair.strip()
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        key = key.strip().lower().replace("-", "_")
        if not equals:
            key, value = "fault", pair
        if key not in _FIELDS:
            raise DirectiveError(f"unknown directive {key!r}; there are: {', '.join(NAMES)}")
        found[key] = _value(key, unquote(value.strip()), faults)
    return found


def from_options(options: dict[str, object], faults: frozenset[str]) -> dict[str, object]:
    """Keyword settings (`fault="429", ttft=0.1`) checked by the same rules as text.

    Raises: DirectiveError for an unknown key, fault or bad value.
    """
    found: dict[str, object] = {}
    for key, value in options.items():
        if key not in _FIELDS:
            raise DirectiveError(f"unknown directive {key!r}; there are: {', '.join(NAMES)}")
        if isinstance(value, (tuple, list)):
            value = "+".join(str(v) for v in value)
        if isinstance(value, bool):
            value = "1" if value else "0"
        if value is None:
            found[key] = () if key == "fault" else None
        else:
            found[key] = _value(key, str(value), faults)
    return found


def split_model(model: str, faults: frozenset[str]) -> tuple[str, str]:
    """A model name as (name, directive text).

    `gpt-4o@fault=cut&after=40` has directives; `claude-sonnet-4@20250514` (Vertex) has none, for want of an
    equals sign; `sim-429` is the fault alone and keeps its name.
    """
    if "@" in model:
        name, _, rest = model.partition("@")
        if "=" in rest:
            return name, rest
    if model.startswith("sim-") and model[4:].replace("-", "_") in faults:
        return model, model[4:].replace("-", "_")
    return model, ""


def from_prompt(text: str) -> tuple[str, str]:
    """A prompt as (prompt without directives, directive text) after its `[[simulate ...]]` marks."""
    found: list[str] = []
    while True:
        start = text.find("[[simulate ")
        end = text.find("]]", start)
        if start < 0 or end < 0:
            return text, ",".join(found)
        found.append(text[start + 11 : end])
        text = (text[:start] + text[end + 2 :]).strip()
