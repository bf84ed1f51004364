"""What the model writes in answer to one call: the guards of its channels, their numbering, and what they saw."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from llmshield.call import Call, Channel, Reply, Stop
from llmshield.verdicts import Block
from llmshield_plugins.pii import operators
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.guard import Guard, Treat
from llmshield_plugins.pii.name_guard import NameGuard
from llmshield_plugins.pii.placeholders import Placeholders
from llmshield_plugins.pii.settings import EntityRule

if TYPE_CHECKING:
    from llmshield_plugins.pii.plugin import Pii


class Output:
    """What the model writes in answer to one call: guards for its channels, and what they saw."""

    __slots__ = ("_call", "_placeholders", "_plugin", "_seen", "_treats")

    def __init__(self, plugin: Pii, call: Call, placeholders: Placeholders | None) -> None:
        self._plugin = plugin
        self._call = call
        self._placeholders = placeholders
        self._seen: Counter[tuple[str, str]] | None = None
        self._treats: dict[Channel, Treat] = {}
        """Of the guards of each channel that were made last: what both replace is numbered together."""

    def guard(self, channel: Channel) -> Guard:
        """The guard of one channel; its placeholders count on from those of the call."""
        treat = self._treats[channel] = self._treat()
        return Guard(self._plugin._walker, treat)

    def name_guard(self, channel: Channel) -> NameGuard:
        """The guard of names of one channel, which counts on with the other."""
        plugin = self._plugin
        assert plugin._names is not None
        treat = self._treats.get(channel) or self._treat()

        def kept(item: Found, value: str) -> str | Stop | None:
            return treat(item, value) if plugin._keep(item, value) else None

        return NameGuard(plugin._names, plugin._rules, kept)

    def _treat(self) -> Treat:
        plugin, call = self._plugin, self._call
        placeholders = self._placeholders
        if placeholders is None:
            placeholders = self._placeholders = Placeholders(lambda: [text.value for text in call.texts])
        originals, surrogates = placeholders.originals, placeholders.surrogates
        numbering = placeholders.fork()
        if self._seen is None:
            self._seen = Counter()
        seen = self._seen

        def treat(item: Found, value: str) -> str | Stop | None:
            rule = plugin._rules[item.kind]
            if value in originals or (surrogates and value.casefold() in surrogates):
                return (
                    None  # what stands for a value: its surrogate, or a name that an expression took for one
                )
            seen[item.kind, word_of(rule)] += 1
            if rule.action == "block":
                return Stop(Block(f"Blocked by policy 'pii': {item.kind} in the answer."))
            return operators.apply(rule, item.kind, value, numbering, plugin._key)

        return treat

    def tell(self, reply: Reply) -> None:
        """The reply has ended: what was seen in it."""
        for (kind, action), count in (self._seen or {}).items():
            self._call.report(kind, action, place="reply", count=count)


def word_of(rule: EntityRule) -> str:
    """The action as records and metrics count it."""
    return rule.action if rule.action in ("block", "flag") else "redact"
