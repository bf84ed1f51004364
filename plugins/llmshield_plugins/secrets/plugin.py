"""The plugin itself: settings in, edits and filters out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import re2

from llmshield.call import Call, Channel, Reply, Stop, Text
from llmshield.hookspecs import Plugin, Resources, hookimpl
from llmshield.secrets_patterns import (
    SECRET_NAME,
    Credential,
    credential_gate,
    entropy,
    find_credentials,
    reads_like_a_secret,
)
from llmshield.verdicts import Block
from llmshield_plugins.secrets.guard import Guard
from llmshield_plugins.secrets.reader import Reader
from llmshield_plugins.secrets.scanner import Scanner
from llmshield_plugins.secrets.settings import SecretsSettings, compiled

HOLD_BACK = 64
"""Characters that a stream waits where no credential has begun: a word, or a name that may announce one."""

_SHORTEST_REPEAT = 8
"""Characters of a value that is looked for elsewhere in the call."""
_MOST_REPEATS = 64
_FIRST = 128
"""Characters of a field's value that say whether it may be announced by the field's name."""

_WARM_UP = (
    "Take the key AKIAIOSFODNN7EXAMPLE, password: Tr0ub4dor3, and curl -u a:b https://u:p@host/path.\n"
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----\nNothing else; good-bye.\n"
)


class Secrets(Plugin):
    """See the package's docstring and docs/plugins/secrets.md."""

    Settings = SecretsSettings
    computes = True
    settings: SecretsSettings

    def __init__(self, settings: SecretsSettings) -> None:
        super().__init__(settings)
        self._roles = frozenset(settings.scan)
        self._rulings = settings.rulings()
        self._allow = frozenset(settings.allow)
        self._allowed = tuple(compiled(pattern) for pattern in settings.allow_patterns)
        gate = credential_gate()
        # The set in C: every text is asked of it, and its wrapper costs a third of the question.
        self._glance: Callable[[bytes], Any] = getattr(gate, "_set", gate).Match
        self._secret_name = re2.compile(SECRET_NAME)
        if "output" not in self._roles:
            self.idle = frozenset({"post_response"})

    async def start(self, resources: Resources) -> None:
        """Let the automata build their states before a caller's text needs them."""
        guard = Guard(self._find, lambda item: None)
        for start in range(0, len(_WARM_UP), 7):
            guard.feed(_WARM_UP[start : start + 7])
        self._whole(_WARM_UP, "", None)

    @classmethod
    def scanner(cls, settings: SecretsSettings) -> Scanner:
        """What `llmshield scan --plugin secrets` uses: one verdict for one text, no call around it."""
        plugin = cls(settings)
        return Scanner(lambda text: plugin._whole(text, "", None), plugin._rulings, plugin._roles)

    @hookimpl
    def pre_request(self, call: Call) -> Block | None:
        """Find credentials in every text of the roles in `scan` and in metadata; propose what takes their place."""
        texts = [text for text in call.texts if text.kind == "metadata" or text.role in self._roles]
        values = [text.value for text in texts]
        names = [self._announced(text, value) for text, value in zip(texts, values, strict=True)]
        if not any(names) and not self._suspects("\n".join(values)):
            return None
        found = [self._whole(value, name, call.deadline) for value, name in zip(values, names, strict=True)]
        if not any(found):
            return None
        return self._propose(call, texts, values, _repeated(values, found, self._hides))

    def _propose(
        self, call: Call, texts: Sequence[Text], values: Sequence[str], found: Sequence[list[Credential]]
    ) -> Block | None:
        block: Block | None = None
        for text, items in zip(texts, found, strict=True):
            for item in items:
                if self._rulings[item.rule].action == "block" and block is None:
                    block = Block(
                        f"Blocked by policy 'secrets': {item.rule} in {text.param}.", param=text.param
                    )
        for text, items in zip(texts, found, strict=True):
            for rule, count in Counter(item.rule for item in items).items():
                call.report(rule, self._rulings[rule].action, score=1.0, place=text.place, count=count)
            if block is None:
                for item in items:
                    if self._hides(item):
                        text.replace(item.start, item.end, _hidden(item.rule))
        return block

    @hookimpl
    def post_response(self, call: Call, reply: Reply) -> None:
        """Hang on the output guard."""
        output = _Output(self, call)
        reply.filter(output.guard, hold_back=HOLD_BACK, untouched=self._honest)
        reply.at_end(output.tell)

    def _suspects(self, text: str) -> bool:
        """Whether there could be anything; False is certain (but for a value that its field's name announces)."""
        try:
            return bool(self._glance(text.encode()))
        except UnicodeEncodeError:
            return bool(self._glance(text.encode("utf-8", "replace")))

    def _honest(self, text: str) -> bool:
        """Whether a text holds nothing that could be found, whatever its field is called."""
        return not self._suspects(text) and not _may_be_announced(text)

    def _announced(self, text: Text, value: str) -> str:
        """What stands before a text that is the value of a field: `password: `, or nothing."""
        if text.is_name or not _may_be_announced(value):
            return ""
        return self._announcing(text.place.rpartition("/")[2])

    def _announcing(self, name: str) -> str:
        return f"{name}: " if self._secret_name.search(name) is not None else ""

    def _keep(self, rule: str, value: str) -> bool:
        """Whether the policy wants this find."""
        ruling = self._rulings[rule]
        if ruling.action == "ignore" or value in self._allow or entropy(value) < ruling.min_entropy:
            return False
        return not any(pattern.fullmatch(value) is not None for pattern in self._allowed)

    def _find(self, text: str) -> list[Credential]:
        return find_credentials(text, self._keep) if self._suspects(text) else []

    def _whole(self, value: str, before: str, deadline: float | None) -> list[Credential]:
        """Every credential in a text, in order, without overlap. Raises: TimeoutError past the deadline."""
        if not before and not self._suspects(value):
            return []
        found, _ = Reader(self._find).settle(before + value, True, deadline)
        shift = len(before)
        return [
            item._replace(start=max(0, item.start - shift), end=item.end - shift)
            for item in found
            if item.end > shift
        ]

    def _hides(self, item: Credential) -> bool:
        return self._rulings[item.rule].action == "redact"


class _Output:
    """What the model writes in answer to one call: guards for its channels, and what they saw."""

    __slots__ = ("_call", "_plugin", "_seen")

    def __init__(self, plugin: Secrets, call: Call) -> None:
        self._plugin = plugin
        self._call = call
        self._seen: Counter[str] = Counter()

    def guard(self, channel: Channel) -> Guard:
        """The guard of one channel; a leaf of tool arguments is announced by its name."""
        name = channel.path[-1] if channel.path else None
        before = self._plugin._announcing(name) if isinstance(name, str) else ""
        return Guard(self._plugin._find, self._treat, before)

    def _treat(self, item: Credential) -> str | Stop | None:
        action = self._plugin._rulings[item.rule].action
        self._seen[item.rule] += 1
        if action == "block":
            return Stop(Block(f"Blocked by policy 'secrets': {item.rule} in the answer."))
        return _hidden(item.rule) if action == "redact" else None

    def tell(self, reply: Reply) -> None:
        """The reply has ended: what was seen in it."""
        for rule, count in self._seen.items():
            self._call.report(rule, self._plugin._rulings[rule].action, place="reply", count=count)


def _hidden(rule: str) -> str:
    """What is written in place of a credential; never found again, since it reads like a placeholder."""
    return f"[redacted:{rule}]"


def _may_be_announced(value: str) -> bool:
    """Whether a text begins with what would be a secret behind `password: `."""
    first = value[:_FIRST].split(None, 1)
    return bool(first) and len(first[0]) >= 6 and reads_like_a_secret(first[0].strip("\"'`<>,;") or "-")


def _repeated(
    values: Sequence[str], found: Sequence[list[Credential]], hides: Callable[[Credential], bool]
) -> list[list[Credential]]:
    """`found`, for each text, with every further place where a redacted value stands in any of the texts: what one
    text announces may stand bare in another."""
    known: dict[str, Credential] = {}
    for value, items in zip(values, found, strict=True):
        for item in items:
            if item.end - item.start >= _SHORTEST_REPEAT and len(known) < _MOST_REPEATS and hides(item):
                known.setdefault(value[item.start : item.end], item)
    if not known:
        return list(found)
    return [_with(value, items, known) for value, items in zip(values, found, strict=True)]


def _with(text: str, items: list[Credential], known: Mapping[str, Credential]) -> list[Credential]:
    more: list[Credential] = []
    for value, first in known.items():
        start = text.find(value)
        while start >= 0:
            end = start + len(value)
            if not any(start < item.end and item.start < end for item in (*items, *more)):
                more.append(first._replace(start=start, end=end))
            start = text.find(value, end)
    return sorted([*items, *more]) if more else items
