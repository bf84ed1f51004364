"""The scanner: a text and its role in, a judgement out. No hook, no I/O.

One re2 Set holds the signatures, the user's literals and the triggers of views; a plain text is judged by one
pass over it. Only what fires costs more. Views are walked breadth first under a budget of characters that grows
with the text, so the whole is linear; a budget that runs out is a finding of its own, `unscanned`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

import re2

from llmshield import clock

from . import contexts, learned, views
from .firing import Firing
from .folds import PLAIN, SKELETON
from .judgement import CLEAN, MENTION, Hit, Judgement, Rules, judge
from .literals import forms, literal, marked, parts, speakable
from .longwords import LongWords
from .matcher import Matcher, Pattern
from .matches import finditer
from .nearby import Telling
from .negations import LOOK
from .passages import OVERLAP, WHOLE, moved, passages
from .signatures import Signature, builtin
from .stretches import Variety
from .view import View, folded

# The trained scorer's word counts from here on; below, it is the noise of honest texts.
_LIKELY: Final = 0.3
# Characters of views that the trained scorer rates, the text itself and its nearest views first: at 45 us per KB
# it costs as much as the signatures.
_RATED_BASE: Final = 16_384
_RATED_FACTOR: Final = 5
_RATED_FACTOR_LONG: Final = 2
# Spans reported of one signature in one view: enough to show, little to look up.
_MAX_SPANS: Final = 4
# Views of the same words, or of no words: the trained scorer has nothing to add there, unless the text is short and its
# words may be readable there only.
_UNRATED: Final = frozenset({"squeezed", "unmarked", "joined", "links", "leet", "word_order"})
_REREAD, _SHORT = frozenset({"unmarked", "joined", "leet", "links"}), 1_000


_TALK: Final = re2.compile(f"(?i){views.TALK}")
# From here on the trained scorer speaks for itself even where all that has a name is a mention.
_CERTAIN: Final = 0.9


class Scanner:
    """Signatures, views and rules, compiled. Made once per policy; `scan` may run in any thread."""

    def __init__(self, rules: Rules | None = None) -> None:
        rules = rules or Rules()
        self.rules = rules
        signatures = [s for s in builtin() if rules.weights.get(s.family, 1.0) > 0]
        signatures += rules.own
        for number, text in enumerate(rules.deny):
            signatures += [marked(f"deny[{number}]", "deny", form) for form in forms(text)]
        if rules.canary:
            signatures += [marked("canary", "prompt_leak", rules.canary), parts(rules.canary)]
        self._signatures: Sequence[Signature] = signatures
        # What the policy looks for in any case and form.
        fixed = [form for text in (*rules.deny, rules.canary) for form in forms(text)]
        self._telling = Telling(
            (s.pattern for s in signatures),
            chain.from_iterable(map(str.split, fixed)),
            everything=bool(rules.own),
        )
        self._squeezed = [index for index, s in enumerate(signatures) if s.squeezed is not None]
        self._squeezed_matcher = Matcher(
            [Pattern(signatures[i].squeezed or "", "squeezed") for i in self._squeezed]
        )
        self._long_words = LongWords(self._squeezed_matcher, self._telling)
        self._triggers = views.triggers(self._telling, self._long_words, filter(str.isascii, fixed))
        self._firing = Firing(signatures, self._triggers, self._long_words)
        self._first_trigger, self._common = self._firing.first_trigger, self._firing.common
        self._patterns: dict[tuple[int, bool], Any] = {}
        self._learned = rules.weights.get("learned", 1.0)
        learned.load()
        # Alone, a likeness below this changes no verdict.
        first = min((rules.flag_at, *(flag_at for flag_at, _ in rules.points.values())))
        self._least = max(_LIKELY, min(1.0, first / self._learned)) if self._learned else 1.0
        # Signs of their own, not mentions of anything.
        self._weak = frozenset(s.id for s in signatures if s.score <= MENTION)
        self._raw = bool(rules.own or rules.deny or rules.canary)
        certain = ("deny", "prompt_leak")
        self._own = [i for i, s in enumerate(signatures) if not s.example and s.family not in certain]
        self._overlap = max(OVERLAP, 2 * max(map(len, rules.deny), default=0))
        self._allow = (
            re2.compile("(?i)" + "|".join(literal(form) for text in rules.allow for form in forms(text)))
            if rules.allow
            else None
        )

    def is_plain(self, texts: Sequence[str]) -> bool:
        """Whether these texts hold nothing that is worth a closer look; one pass over all of them."""
        joined = texts[0] if len(texts) == 1 else "\n".join(texts)
        if len(joined) >= views.BLOB_MIN:
            joined = views.without_blobs(speakable(joined))
        if not joined.isascii() or self._firing.everything(joined) != self._firing.noise:
            return False
        # Everyday words in one text must not hide another that has none.
        if len(texts) > 1 and not all(
            not views.may_be_transposed(t) or self._firing.is_prose(t) for t in texts
        ):
            return False
        return self._learned == 0.0 or all(
            learned.rate(self._without_allowed(t), self._least).score < _LIKELY for t in texts
        )

    def scan(
        self, text: str, role: str = "user", *, exact: bool = True, deadline: float | None = None
    ) -> Judgement:
        """Judge one text. Any string gets a judgement.

        Raises: TimeoutError when a view would begin after `deadline` (`clock.monotonic()` seconds).

        Unless `exact`, the score of a text that is to be allowed may be given as 0: most texts need no more than a
        bound of what the trained scorer can say.

        `role` is system, user, assistant, tool or output; or `joined` for ends of several texts, of which the
        trained scorer has nothing to say, and whose odd spellings come from the joints.
        """
        if len(text) >= views.BLOB_MIN:
            text = views.without_blobs(speakable(text))
        if len(text) <= WHOLE or role == "joined":
            return judge(self.rules, self._hits_in(text, role, exact=exact, deadline=deadline), role)
        many = learned.variety(text) if self._learned else learned.ALONE
        hits: dict[Hit, None] = {}
        for start, passage in passages(text, self._overlap):
            found = self._hits_in(passage, role, exact=exact, deadline=deadline, many=many)
            hits.update(dict.fromkeys(moved(hit, start) for hit in found))
        hits.update(dict.fromkeys(self._anywhere(text)))
        return judge(self.rules, hits, role)

    def _anywhere(self, text: str) -> Iterator[Hit]:
        """The user's own patterns, which may reach over passages, in the text as it stands."""
        for index in self._own:
            signature = self._signatures[index]
            for start, end, _, _ in self._spans(index, View("text", text)):
                yield Hit(signature.id, signature.family, signature.score, start, end, "text")

    def _hits_in(
        self,
        text: str,
        role: str,
        *,
        exact: bool,
        deadline: float | None,
        many: Variety = learned.ALONE,
    ) -> Sequence[Hit]:
        """What is found in a text that is read as one, a passage of one that is as varied as `many`."""
        matched = None
        likeness = self._learned > 0.0 and role != "joined"
        least = _LIKELY if exact else self._least
        if text.isascii():
            matched = self._firing.everything(text)
            if matched == self._firing.noise:
                rated = (
                    learned.rate(self._without_allowed(text), least, many) if likeness else learned.NOTHING
                )
                return () if rated.score < _LIKELY else (self._like(View("text", text), rated),)
            if self._allow is not None:
                matched = None
        else:
            text = speakable(text)
        return self._walk(
            View("text", text),
            matched,
            role,
            likeness=likeness,
            deadline=deadline,
            many=many,
            exact=exact,
        )

    def _like(self, view: View, rated: learned.Learned) -> Hit:
        """The finding of the trained scorer."""
        start, end = learned.place(view.text, rated.first, rated.last)
        score = round(rated.score * self._learned, 4)
        return Hit("learned", "learned", score, *view.span(start, end), view.path())

    def look(self, text: str, *, begins: bool) -> Judgement:
        """Judge a part of a longer text by what stands in it unencoded, away from its edges.

        `begins` says that the longer text, as it will be scanned, begins here as well.
        What this finds, `scan` of the whole finds as well; so with `allow` literals, which may lie across an
        edge, it finds nothing.
        """
        if self._allow is not None:
            return CLEAN
        text = speakable(text)
        root = View("text", text)
        forms = (
            [root]
            if text.isascii()
            else list(dict.fromkeys((folded("plain", root, PLAIN), folded("skeleton", root, SKELETON), root)))
        )
        hits: list[Hit] = []
        for view in forms:
            for index in self._firing.by_sight(view.text):
                hits += self._inside(index, view, begins=begins)
        return judge(self.rules, hits, "output")

    def squeezed(self, letters: str) -> list[Hit]:
        """What is found in letters and digits alone, of several texts."""
        view = View("squeezed", speakable(letters))
        found = {self._squeezed[index]: [view] for index in self._squeezed_matcher.match(view.text)}
        return self._hits(found, "joined", talk=False) if found else []

    def _inside(self, index: int, view: View, *, begins: bool) -> list[Hit]:
        """The first hit of a signature that touches no end of a view behind which there may be more."""
        signature = self._signatures[index]
        for match in finditer(self._pattern(index, squeezed=False), view.text):
            start, end = match.span()
            # What stands before an override may deny it.
            if (begins or start > (LOOK if signature.family == "instruction_override" else 0)) and end < len(
                view.text
            ):
                if signature.example and contexts.is_denied(signature, ((0, 0, start, end),), view):
                    continue
                score = min(1.0, signature.score * self.rules.weights.get(signature.family, 1.0))
                where = view.span(start, end)
                return [Hit(signature.id, signature.family, score, *where, view.path())]
        return []

    def _match(self, view: View, *, again: bool) -> list[int]:
        """Indices in the main set that match in a view, allowed literals taken out."""
        if view.name == "squeezed":
            return [self._squeezed[index] for index in self._squeezed_matcher.match(view.text)]
        view.text = self._without_allowed(view.text)
        return self._firing.everything(view.text) if again else self._firing.ending(view.text)

    def _without_allowed(self, text: str) -> str:
        """The text with allowed literals made unreadable, at the same length; the same object if it has none."""
        if self._allow is None or self._allow.search(text) is None:
            return text
        blanked: str = self._allow.sub(lambda match: "0" * (match.end() - match.start()), text)
        return blanked

    def _walk(
        self, root: View, matched: list[int] | None, role: str, *, likeness: bool, deadline: float | None,
        many: Variety, exact: bool,
    ) -> Sequence[Hit]:  # fmt: skip
        budget = self.rules.budget
        left = budget.base + budget.factor * len(root.text)
        found: dict[int, list[View]] = {}
        exhausted = False
        readable: list[View] = []
        rateable = (
            _RATED_FACTOR_LONG * len(root.text)
            if many.stretches
            else _RATED_BASE + _RATED_FACTOR * len(root.text)
        )
        if not likeness:
            rateable = 0
        seen: set[str] = set()
        queue: deque[tuple[View, bool]] = deque([(root, True)])
        ending = role != "joined"
        while queue:
            view, again = queue.popleft()
            if clock.overdue(deadline):
                raise TimeoutError
            if view.text in seen and view.name != "squeezed":
                continue
            left -= len(view.text)
            if left < 0:
                exhausted = True
                break
            seen.add(view.text)
            if not view.text.isascii() and not views.is_folded(view):
                plain, *others = views.of_unicode(view, self._telling)
                queue.extendleft((made, again) for made in reversed(others))
                if plain is not view:
                    queue.appendleft((plain, again))
                    if not self._raw:
                        continue
            given = view.text
            indices = matched if matched is not None else self._match(view, again=again)
            matched = None
            if view.text is not given:
                # Views that show an allowed literal disguised are no evidence against it.
                readable.clear()
                rateable = len(view.text) if likeness else 0
            fired: list[int] = []
            for index in sorted(indices):
                if index < self._first_trigger:
                    found.setdefault(index, []).append(view)
                elif index < self._common:
                    fired.append(index - self._first_trigger)
            common = self._common in indices
            rates = common or view.depth == 0
            if view.name in _UNRATED:
                told = common or any(view in where[-1:] for where in found.values())
                rates = told and view.name in _REREAD and len(view.text) <= _SHORT
            if rates and rateable > 0:
                rateable -= len(view.text)
                readable.append(view)
            if not again:
                continue
            if view.depth < views.MAX_DEPTH:
                opened = view
                for index in fired:
                    trigger = self._triggers[index]
                    if trigger.then == "open":
                        opened = next(iter(trigger.make(opened)), opened)
                    elif trigger.then == "read" or (ending and opened is view):
                        # What an opened view is looked at for at its end need not be looked for before.
                        queue.extend((made, trigger.then == "read") for made in trigger.make(view))
                if opened is not view:
                    queue.appendleft((opened, True))
                if not common and view.name not in ("squeezed", "rail_fence"):
                    queue.extend((made, False) for made in views.of_no_words(view))
        named: list[Hit] = []
        talk = False
        if found:
            # A quoted attack is a mention in a text that talks about attacks.
            talk = any(
                _TALK.search(view.text) is not None for view in {root, *chain.from_iterable(found.values())}
            )
            named = self._hits(found, role, talk=talk)
        # Alone, a weak likeness says nothing; beside something else it does.
        least = _LIKELY if exact or found or exhausted else self._least
        beside = any(hit.score > MENTION for hit in named)
        like, liked = learned.NOTHING, root
        for view in readable:
            rated = learned.rate(view.text, max(least, like.score), many, beside=beside)
            if rated.score > like.score:
                like, liked = rated, view
        hits = [self._like(liked, like)] if like.score >= _LIKELY else []
        if exhausted:
            score = self.rules.budget.score * self.rules.weights.get("unscanned", 1.0)
            hits.append(Hit("unscanned", "unscanned", score, 0, len(root.text), "text"))
        mentions = [hit for hit in named if hit.signature not in self._weak]
        if hits and mentions and all(hit.score <= MENTION for hit in mentions):
            # The scorer knows words, not who says them: what it likes is the quoted attack.
            hits = [hit for hit in hits if hit.family != "learned" or (hit.score >= _CERTAIN and not talk)]
        return hits + named

    def _hits(self, found: dict[int, list[View]], role: str, *, talk: bool) -> list[Hit]:
        """The exact hits of what the Sets found, each in the first view in which it is one."""
        hits: list[Hit] = []
        for index, where in found.items():
            signature = self._signatures[index]
            spans, view = self._first_spans(index, where)
            if view is None:
                continue
            if signature.family == "prompt_leak" and role != "output":
                continue
            score = signature.tool_score if role == "tool" else signature.score
            if signature.example and (
                contexts.is_denied(signature, spans, view)
                if role == "output"
                else contexts.is_mention(signature, spans, view, talk=talk)
            ):
                score = min(score, MENTION)
            score *= self.rules.weights.get(signature.family, 1.0)
            path = view.path()
            hits.extend(
                Hit(signature.id, signature.family, score, start, end, path) for start, end, _, _ in spans
            )
        return hits

    def _first_spans(self, index: int, where: Sequence[View]) -> tuple[list[contexts.Found], View | None]:
        """The spans in the first view in which the exact pattern matches; the Set's answer is only a hint."""
        for view in where:
            spans = self._spans(index, view)
            if spans:
                return spans, view
        return [], None

    def _spans(self, index: int, view: View) -> list[contexts.Found]:
        """Where a signature matches in a view: spans of the text as given, and where each begins and ends in the view."""
        pattern = self._pattern(index, squeezed=view.name == "squeezed")
        spans: list[contexts.Found] = []
        for match in finditer(pattern, view.text):
            start, end = view.span(match.start(), match.end())
            spans.append((start, end, match.start(), match.end()))
            if len(spans) == _MAX_SPANS:
                break
        return spans

    def _pattern(self, index: int, *, squeezed: bool) -> Any:
        """The exact pattern of a signature, compiled when it is first wanted."""
        pattern = self._patterns.get((index, squeezed))
        if pattern is None:
            signature = self._signatures[index]
            source = signature.squeezed if squeezed else signature.pattern
            pattern = self._patterns[index, squeezed] = re2.compile(f"(?i){source}")
        return pattern
