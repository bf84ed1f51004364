"""The plugin itself: settings in, edits and filters out."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from llmshield import vault
from llmshield.call import Call, Reply, Text
from llmshield.errors import SecretError, StoreUnavailable
from llmshield.hookspecs import Plugin, Resources, hookimpl
from llmshield.stores import Store
from llmshield.texts import CleanTexts
from llmshield.verdicts import Block
from llmshield_plugins.pii import kinds, nrp, operators
from llmshield_plugins.pii.conversations import Conversations, Page, Seals, agreed
from llmshield_plugins.pii.custom import Custom
from llmshield_plugins.pii.detector import Detector, Found
from llmshield_plugins.pii.fields import as_a_name, is_a_name, joined
from llmshield_plugins.pii.guard import Guard
from llmshield_plugins.pii.name_guard import LONGEST
from llmshield_plugins.pii.names import Names
from llmshield_plugins.pii.output import Output, word_of
from llmshield_plugins.pii.placeholders import Given, Placeholders, numbers_of
from llmshield_plugins.pii.presidio_bridge import Presidio
from llmshield_plugins.pii.repeats import repeats
from llmshield_plugins.pii.restore import Originals, Restorer
from llmshield_plugins.pii.scanner import Scanner
from llmshield_plugins.pii.settings import ConversationRule, EntityRule, PiiSettings
from llmshield_plugins.pii.surrogates import Surrogates
from llmshield_plugins.pii.walker import Walker
from llmshield_plugins.pii.warm_up import PIECES, WARM_UP

_LONG, _LONG_WITH_NAMES = 2_500, 1_200
"""Bytes of a body from which values, and names, are looked for in a thread: where values stand close together, values
take 1.3 ms for 1,000 characters and names as much again; the event loop is not to be blocked for 5 ms."""
_SIGNS_REASONING = frozenset(("anthropic_messages",))
"""Dialects whose thoughts are signed: with a value put back, the signature is void and the next turn is refused
(https://docs.claude.com/en/docs/build-with-claude/extended-thinking). Placeholders stay in them, unless they are translated
for a client whose dialect has no such signature."""


Place: TypeAlias = "tuple[Text, str, list[Found]]"
"""A text, its value, and what was found in it."""
Edit: TypeAlias = "tuple[Text, int, int, str]"


class Pii(Plugin):
    """See the package's docstring and docs/plugins/pii.md."""

    Settings = PiiSettings
    computes = True
    settings: PiiSettings

    def __init__(self, settings: PiiSettings) -> None:
        super().__init__(settings)
        self._roles = frozenset(settings.scan)
        self._key = _hash_key(settings.hash_key)
        self._rules = _rules(settings)
        self._allow = frozenset(value.casefold() for value in settings.allow)
        listed = (nrp.recogniser(),) if "NRP" in self._rules else ()
        self._custom = Custom((*settings.recognisers, *listed), settings.hold_back)
        self._walker = self._build(None)
        self._clean = CleanTexts()
        self._names: Names | None = None
        self._conversations: Conversations | None = None
        self.long_from = _LONG_WITH_NAMES if self._name_kinds() else _LONG

    async def start(self, resources: Resources) -> None:
        """Load presidio if the policy has a kind that needs it; off the event loop, it takes seconds.

        Raises: ValueError when the environment lacks the variable that `hash_key` names, SecretError when there is
        something to encrypt and no usable LLMSHIELD_SECRET_KEY.
        """
        if any(rule.action == "encrypt" for rule in self._rules.values()):
            vault.ring()
        if not self._key:
            raise ValueError(
                f"hash_key: the environment has no variable {_variable(self.settings.hash_key)!r}"
            )
        if self.settings.conversation is not None:
            self._conversations = self._kept(self.settings.conversation, resources.get(Store))  # type: ignore[type-abstract]
        needed, names = self._presidio_kinds(), self._name_kinds()
        if needed:
            self._walker = self._build(await asyncio.to_thread(Presidio, needed))
        if names:
            self._names = await asyncio.to_thread(Names, names)
        # The automata build their states when a text first needs them: let it not be a caller's text.
        guard = Guard(self._walker, lambda found, value: None)
        for size in PIECES:
            for start in range(0, len(WARM_UP), size):
                guard.feed(WARM_UP[start : start + size])
            guard.flush()
        if self._names is not None:
            self._names.find(WARM_UP)
        self._walker.whole(WARM_UP)

    def _kept(self, rule: ConversationRule, store: Store) -> Conversations:
        """Where placeholders of conversations are kept. What no other process sees may be sealed by a key of this one.

        Raises: SecretError where others read the store and there is no usable LLMSHIELD_SECRET_KEY.
        """
        ring: Callable[[], Seals] = vault.ring
        if not vault.has_key() and not store.shared:
            own = vault.KeyRing(secrets.token_bytes(32))
            ring = lambda: own  # noqa: E731  the same shape as vault.ring
        ring()
        return Conversations(store, ring, self.name, rule.id, rule.ttl)

    @classmethod
    def scan_settings(cls) -> PiiSettings:
        """What `llmshield scan` finds without a policy: every kind, places and organisations included."""
        named = kinds.NAMES if kinds.numpy_installed() else ()
        return PiiSettings(entities={kind: EntityRule() for kind in ("*", *named)})

    @classmethod
    def scanner(cls, settings: PiiSettings) -> Scanner:
        """What `llmshield scan --plugin pii` uses: one verdict for one text, no call around it."""
        plugin = cls(settings)
        needed = plugin._presidio_kinds()
        if needed:
            plugin._walker = plugin._build(Presidio(needed))
        names = plugin._name_kinds()
        if names:
            plugin._names = Names(names)
        return Scanner(plugin._read, plugin._rules)

    @staticmethod
    def revealed(text: str) -> str:
        """What `llmshield reveal` writes: `text` with every encrypted value as it was. Raises: SecretError."""
        return operators.revealed(text)

    @hookimpl
    def pre_request(self, call: Call) -> Block | Coroutine[Any, Any, Block | None] | None:
        """Find values in every text of the roles in `scan` and in metadata; propose what takes their place."""
        texts = [text for text in call.texts if text.kind == "metadata" or text.role in self._roles]
        values = [text.value for text in texts]
        page = None
        if self._conversations is not None and call.enforced:
            try:
                page = self._conversations.page(call)
            except ValueError as error:
                return Block(f"Policy 'pii': {error}", "bad_request")
        found: list[list[Found]] = []
        if values and (self._names is not None or not self._known_or_plain(texts, values)):
            found = [
                self._found(text, value, call.deadline) for text, value in zip(texts, values, strict=True)
            ]
        if not any(found):
            return None if page is None else self._agreed(call, page, [])
        items = repeats(values, found, self._rules)
        places = [
            (text, value, joined(value, of) if of and is_a_name(text) else of)
            for text, value, of in zip(texts, values, items, strict=True)
            if of
        ]
        for text, _, of in places:
            block = self._refusal(text, of)
            if block is not None:
                self._report(call, text, of)
                return block
        if page is not None:
            return self._agreed(call, page, places)
        placeholders = Placeholders(lambda: [text.value for text in call.texts])
        self._propose(call, places, placeholders, self._edits(places, placeholders))
        return None

    def _known_or_plain(self, texts: list[Text], values: list[str]) -> bool:
        """Whether a glance tells that no text holds a value; those that were clean before are not looked at."""
        clean = self._clean
        unknown: list[str] = []
        keys: list[bytes] = []
        for text, value in zip(texts, values, strict=True):
            if len(value) >= CleanTexts.LEAST:
                key = _key_of(text, value)
                if key in clean:
                    continue
                keys.append(key)
            unknown.append(value)
        if unknown and self._walker.suspects("\n".join(unknown)):
            return False
        for key in keys:
            clean.add(key)
        return True

    def _found(self, text: Text, value: str, deadline: float | None) -> list[Found]:
        """What a text holds; one that was clean before is not searched again. Names of objects' members are no names
        of persons."""
        read = self._walker.whole if text.is_name else self._read
        if len(value) < CleanTexts.LEAST:
            return read(value, deadline)
        key = _key_of(text, value)
        if key in self._clean:
            return []
        found = read(value, deadline)
        if not found:
            self._clean.add(key)
        return found

    def _read(self, value: str, deadline: float | None = None) -> list[Found]:
        """Every value and name in a text. Raises: TimeoutError past the deadline."""
        found = self._walker.whole(value, deadline)
        if self._names is None:
            return found
        names = [
            item
            for item in self._names.find(value, deadline)
            if self._keep(item, value[item.start : item.end])
        ]
        if not found or not names:
            return found or names
        free = [name for name in names if not any(name.start < f.end and f.start < name.end for f in found)]
        return sorted([*found, *free])

    def _agreed(self, call: Call, page: Page, places: list[Place]) -> Coroutine[Any, Any, Block | None]:
        """The same with the placeholders of a conversation. What takes long is done here, in a thread for long texts;
        the coroutine asks the store."""

        def said() -> list[str]:
            return [text.value for text in call.texts]

        taken = {kind: numbers_of(kind, said()) for kind in {item.kind for _, _, of in places for item in of}}
        last: list[tuple[Placeholders, list[Edit]]] = []

        def work(given: Given) -> Given:
            placeholders = Placeholders(said, given, taken)
            last[:] = [(placeholders, self._edits(places, placeholders))]
            return placeholders.given

        async def run() -> Block | None:
            try:
                await agreed(page, work)
            except (StoreUnavailable, SecretError):
                if self.settings.conversation is None or self.settings.conversation.on_lost == "refuse":
                    raise
                work(Given())
            self._propose(call, places, *last[0])
            return None

        return run()

    def _edits(self, places: list[Place], placeholders: Placeholders) -> list[Edit]:
        """What is written where: (text, start, end, new)."""
        edits: list[Edit] = []
        prescribed = [is_a_name(text) for text, _, _ in places]
        spoken: set[str] = set()
        if any(prescribed):
            spoken = {
                value[item.start : item.end]
                for (_, value, items), is_name in zip(places, prescribed, strict=True)
                if not is_name
                for item in items
            }
        for (text, value, items), is_name in zip(places, prescribed, strict=True):
            for item in items:
                found = value[item.start : item.end]
                if is_name and (words := found.replace("_", " ")) in spoken:
                    found = words  # the same person, as the form of the field allows
                new = operators.apply(self._rules[item.kind], item.kind, found, placeholders, self._key)
                if new is not None:
                    new = as_a_name(new, item.kind) if is_name else new
                    edits.append((text, item.start, item.end, new))
        return edits

    def _propose(
        self, call: Call, places: list[Place], placeholders: Placeholders, edits: list[Edit]
    ) -> None:
        call.state[self] = placeholders
        for text, start, end, new in edits:
            text.replace(start, end, new)
        for text, _, items in places:
            self._report(call, text, items)

    @hookimpl
    def post_response(self, call: Call, reply: Reply) -> None:
        """Hang on the output guard (if `scan` has `output`), and the restorer (if anything was replaced)."""
        placeholders: Placeholders | None = call.state.get(self)
        if "output" in self._roles:
            output = Output(self, call, placeholders)
            reply.filter(output.guard, hold_back=self.settings.hold_back, untouched=self._honest)
            if self._names is not None:
                reply.filter(output.name_guard, hold_back=LONGEST)
            reply.at_end(output.tell)
        if self.settings.restore and placeholders is not None:
            originals, surrogates = placeholders.originals, placeholders.surrogates
            sealed = reply.dialect in _SIGNS_REASONING and call.dialect in _SIGNS_REASONING
            if originals:
                of = Originals(originals)
                reply.filter(
                    lambda channel: None if sealed and channel.kind == "reasoning" else Restorer(of),
                    phase="restore",
                    hold_back=of.hold_back,
                    untouched=of.untouched,
                )
            if surrogates:
                known = Surrogates(surrogates)
                reply.filter(
                    lambda channel: None if sealed and channel.kind == "reasoning" else known.restorer(),
                    phase="restore",
                    hold_back=known.longest,
                )

    def _honest(self, text: str) -> bool:
        """Whether a text holds nothing that could be found."""
        return not self._walker.suspects(text)

    def _refusal(self, text: Text, items: list[Found]) -> Block | None:
        for item in items:
            if self._rules[item.kind].action == "block":
                return Block(f"Blocked by policy 'pii': {item.kind} in {text.param}.", param=text.param)
        return None

    def _report(self, call: Call, text: Text, items: list[Found]) -> None:
        count: Counter[str] = Counter(item.kind for item in items)
        score: dict[str, float] = {}
        for item in items:
            score[item.kind] = max(item.score, score.get(item.kind, 0.0))
        for kind, number in count.items():
            call.report(kind, word_of(self._rules[kind]), score=score[kind], place=text.place, count=number)

    def _keep(self, item: Found, value: str) -> bool:
        """Whether the policy wants this finding."""
        rule = self._rules.get(item.kind)
        return rule is not None and item.score >= rule.min_score and value.casefold() not in self._allow

    def _name_kinds(self) -> frozenset[str]:
        if not self.settings.names or not kinds.numpy_installed():
            return frozenset()
        return kinds.NAMES & self._rules.keys()

    def _presidio_kinds(self) -> frozenset[str]:
        if not self.settings.presidio or not kinds.presidio_installed():
            return frozenset()
        return frozenset(kind for kind in kinds.PRESIDIO.values() if kind in self._rules)

    def _build(self, presidio: Presidio | None) -> Walker:
        if presidio is None:
            detector = Detector(self._keep, wanted=self._rules.keys())
        else:
            detector = Detector(
                self._keep, wanted=self._rules.keys(), extra=presidio.find, extra_patterns=presidio.patterns
            )
        return Walker(detector, self._custom, self._keep)


def _rules(settings: PiiSettings) -> dict[str, EntityRule]:
    """Kind -> rule, for every kind that may be found and that the policy wants."""
    names = kinds.available() | {recogniser.kind for recogniser in settings.recognisers}
    rules = {name: settings.rule(name) for name in names}
    return {name: rule for name, rule in rules.items() if rule is not None}


def _key_of(text: Text, value: str) -> bytes:
    """What a clean text is remembered by: in names of members no names of persons are looked for."""
    return text.fingerprint(value) + b"n" if text.is_name else text.fingerprint(value)


def _hash_key(written: str | None) -> bytes:
    """The key of `hash`; empty when the policy names a variable that is not there, which `start` refuses."""
    if written is None:
        return secrets.token_bytes(32)
    if written.startswith("env://"):
        return os.environ.get(_variable(written), "").encode()
    return written.encode()


def _variable(written: str | None) -> str:
    return (written or "").removeprefix("env://")
