"""The record of one call, written straight as JSON: who asked what, what was decided, who answered, what it cost.

No value holds a prompt, a reply or a key; what a caller or a provider has chosen is scrubbed, bounded and ASCII, so
that one record is one line whatever it names. This is on the path of every call: strings that were seen before are
looked up, nothing is copied, and `json` is asked only about new ones (6 us for a call with eight steps).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmshield.one_line import one_line
from llmshield.redact import redact, version

if TYPE_CHECKING:
    from llmshield.call import Attempt, Finding
    from llmshield.exchange import Exchange
    from llmshield.steps import Took

PICO = 10**12
LONGEST_VALUE = 256
"""Characters of one value in a record; names beyond it are attacks."""
_ITEMS = 200
_DEPTH = 6
_KNOWN = 8192

_version: object = None


class _Written(dict[str | None, str]):
    """Strings that were written before -> JSON."""

    def __missing__(self, text: str | None) -> str:
        if text is None:
            self[None] = "null"
            return "null"
        clean = redact(text)
        made = json.dumps(one_line(clean, LONGEST_VALUE))
        if clean is text and len(text) <= LONGEST_VALUE:
            if len(self) >= _KNOWN:
                self.clear()
            self[text] = made
        return made


_plain = _Written()
_steps: dict[tuple[str, str, str, bool], str] = {}
"""The beginning of a verdict, up to its milliseconds."""


quoted: Callable[[str | None], str] = _plain.__getitem__
"""A string as JSON in ASCII, without secrets, line breaks or more than `LONGEST_VALUE` characters.

What was clean before is not looked at again until a secret is learned (`fresh`); the secrets of single calls are
looked for in what is new, and what is old stands in the log already.
"""


def fresh() -> None:
    """Forget which strings were clean, if a secret was learned since."""
    global _version
    now = version()
    if now is not _version:
        _plain.clear()
        _steps.clear()
        _version = now


def call_record(
    x: Exchange,
    *,
    kind: str,
    policy: str,
    action: str,
    status: int,
    latency_s: float,
    overhead_s: float,
    hashed: Callable[[str], str],
) -> str:
    """One exchange as a JSON object. `policy` is quoted already; `hashed` makes keyed hashes of identifiers.

    Times are milliseconds, `cost_usd` an exact decimal, `unscanned` names content that no guard could see, `error`
    is a constant. `kind` is `call` for an exchange that is over; `ask` and `answer` are written on the way where
    records are required.
    """
    fresh()
    call, reply, caller = x.call, x.reply, x.caller
    usage = reply.usage if reply is not None else None
    if caller is not None:
        tenant, tier = quoted(caller.tenant), quoted(caller.tier)
        key, client = caller.key_id, hashed(caller.address)
    else:
        tenant, tier, key, client = '""', "null", None, hashed(x.incoming.peer)
    first, cost = x.first_byte_at, x.cost_picousd
    amount = _usd(cost)
    return (
        f'{{"kind":"{kind}","request_id":"{x.id}","policy":{policy},"mount":{quoted(x.incoming.mount)},'
        f'"dialect":{quoted(x.dialect.name) if x.dialect is not None else _EMPTY},"operation":{quoted(x.operation)},'
        f'"path":{quoted(x.path)},"tenant":{tenant},"tier":{tier},"key_id":{_hash(hashed(key)) if key else "null"},'
        f'"client":"{client}","stream":{"true" if reply is not None and reply.stream else "false"},'
        f'"model":{quoted(call.model) if call is not None else _EMPTY},'
        f'"provider":{quoted(x.attempts[-1].provider) if x.attempts else "null"},'
        f'"answered_model":{quoted(reply.model) if reply is not None else "null"},'
        f'"attempts":[{",".join([_attempt(attempt, cost, amount) for attempt in x.attempts])}],'
        f'"verdicts":[{_verdicts(x.trail.took)}],'
        f'"action":"{action}","status":{status},"error":{quoted(_ending(x))},'
        f'"finish":{quoted(reply.finish) if reply is not None else "null"},'
        f'"input_tokens":{_number(usage.input) if usage is not None else "null"},'
        f'"output_tokens":{_number(usage.output) if usage is not None else "null"},'
        f'"cost_usd":{amount},"latency_ms":{_ms(latency_s)},'
        f'"first_byte_ms":{_ms(first - x.started_at) if first else "null"},"overhead_ms":{_ms(overhead_s)},'
        f'"unscanned":{_list(call.unseen) if call is not None and call.unseen else "[]"},'
        f'"overrides":{_list(x.overrides) if x.overrides else "[]"},"route_why":{quoted(x.why)},'
        f'"tags":{_tags(call.tags) if call is not None and call.tags else "{}"}}}'
    )


def other_record(said: Mapping[str, Any]) -> str:
    """Any other record (a head, an end, a change by an administrator) as a JSON object, by the same rules."""
    return json.dumps(_scrubbed(said), separators=(",", ":"))


def usd(picousd: int | None) -> str | None:
    """An amount as an exact decimal with twelve digits, or None for none."""
    if picousd is None:
        return None
    sign, amount = ("-", -picousd) if picousd < 0 else ("", picousd)
    return f"{sign}{amount // PICO}.{amount % PICO:012d}"


_EMPTY = '""'
_SHORT = 2000
_MICROS = [str(micros / 1000) for micros in range(_SHORT)]


def _attempt(attempt: Attempt, cost: int | None, amount: str) -> str:
    """One try of one provider. `prices` is the list and its version that priced it, `lost` are wishes of the client
    that a provider of another `dialect` was not told; `amount` is what `cost`, that of the whole call, looks like."""
    ended = attempt.ended_at
    return (
        f'{{"provider":{quoted(attempt.provider)},"model":{quoted(attempt.model)},'
        f'"outcome":"{attempt.outcome or ("failed" if ended is not None else "open")}",'
        f'"reason":{quoted(attempt.reason)},"status":{_number(attempt.status)},'
        f'"ms":{_ms(ended - attempt.started_at) if ended is not None else "0.0"},'
        f'"cost_usd":{amount if attempt.cost_picousd == cost else _usd(attempt.cost_picousd)},"prices":{quoted(attempt.prices)},'
        f'"dialect":{quoted(attempt.dialect)},"lost":{_list(attempt.lost) if attempt.lost else "[]"}}}'
    )


def _verdicts(tooks: Iterable[Took]) -> str:
    """What each plugin decided at each hook. `mode` is `enforce` or `monitor`; `error` stands there if it failed.

    Writing a float is the dearest part of a verdict, so the few milliseconds that hooks take are looked up.
    """
    steps, micros, parts = _steps, _MICROS, []
    for took in tooks:
        step = (took.plugin, took.hook, took.action, took.enforced)
        begin = steps.get(step) or _step(*step)
        spent = int(took.ms * 1000 + 0.5)
        ms = micros[spent] if 0 <= spent < _SHORT else str(spent / 1000)
        if not took.findings and took.error is None:
            parts.append(f'{begin}{ms},"findings":[],"error":null}}')
        else:
            findings = ",".join([_finding(each) for each in took.findings[:_ITEMS]])
            parts.append(f'{begin}{ms},"findings":[{findings}],"error":{quoted(took.error)}}}')
    return ",".join(parts)


def _step(plugin: str, hook: str, action: str, enforced: bool) -> str:
    made = (
        f'{{"plugin":{quoted(plugin)},"hook":{quoted(hook)},"action":{quoted(action)},'
        f'"mode":"{"enforce" if enforced else "monitor"}","ms":'
    )
    if len(_steps) < _KNOWN:
        _steps[plugin, hook, action, enforced] = made
    return made


def _finding(found: Finding) -> str:
    """What a plugin saw, never the text: `place` is a JSON pointer or a channel."""
    score = found.score
    return (
        f'{{"type":{quoted(found.type)},"action":{quoted(found.action)},"count":{found.count},'
        f'"score":{score if score is not None and 0 <= score <= 1 else "null"},"place":{quoted(found.place)}}}'
    )


def _ending(x: Exchange) -> str | None:
    """Why the exchange did not end well, as a constant; None when it did."""
    if x.cancelled and x.error is None:
        return "client_gone"
    return x.error.kind if x.error is not None else None


def _hash(text: str) -> str:
    return f'"{text}"'


def _usd(picousd: int | None) -> str:
    return f'"{usd(picousd)}"' if picousd is not None else "null"


def _ms(seconds: float) -> str:
    """Milliseconds, to the microsecond; a third of what writing the float takes."""
    spent = int(seconds * 1_000_000 + 0.5)
    if 0 <= spent < _SHORT:
        return _MICROS[spent]
    text = str(spent)
    return f"{text[:-3]}.{text[-3:]}" if spent > 0 else str(spent / 1000)


def _number(value: int | None) -> str:
    """A whole number; what a provider wrote beyond 64 bits is none."""
    return str(value) if value is not None and -(1 << 63) <= value < 1 << 63 else "null"


def _list(values: Iterable[str]) -> str:
    return f"[{','.join([quoted(str(value)) for value in list(values)[:_ITEMS]])}]"


def _tags(tags: Mapping[str, str]) -> str:
    some = list(tags.items())[:_ITEMS]
    return f"{{{','.join([f'{quoted(str(name))}:{quoted(str(value))}' for name, value in some])}}}"


def _scrubbed(value: Any, depth: int = 0) -> Any:
    """The value without secrets and line breaks, bounded in length, number and depth."""
    if isinstance(value, str):
        return one_line(redact(value), LONGEST_VALUE)
    if depth >= _DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {
            _scrubbed(str(name)): _scrubbed(item, depth + 1) for name, item in list(value.items())[:_ITEMS]
        }
    if isinstance(value, Sequence):
        return [_scrubbed(item, depth + 1) for item in value[:_ITEMS]]
    return value
