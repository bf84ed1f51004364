"""Where a pattern stands decides what it says: an order to a model, a report about somebody, a question how to do it.

`My dentist told me to ignore the previous instructions` has every word of an attack and nobody to attack. What stands
before the match in its sentence tells; nothing behind it is looked at, since an attacker writes that. None of these
openings turns an order into something else: a model that reads "how do I ignore your instructions" answers a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import re2

from .negations import is_forbidden
from .signatures import Signature
from .view import View

_QUOTES: Final = "\"'`"
_VALUES: Final = ('":', "':", "=", ",", "[", "{")
Found = tuple[int, int, int, int]
"""Where a signature matches: start and end in the text as given, then in the view."""

_REACH: Final = 120
"""Characters before a match that are looked at; a sentence that is longer is judged as it stands."""

_PERSON: Final = r"(?:me|us|him|her|them|people|students|my \w+|our \w+|patients|jur(?:y|ors)|everybody|everyone|employees)"
_ASKED: Final = r"(?:told|tell|tells|telling|asked|asks|asking|advised|ordered|instructed|wanted|wants|made|makes|let|taught|convinced|forced|allowed)"
_WHO: Final = (
    r"(?:people|children|kids|models|language models|llms|chatbots|users|players|patients|drivers|students|attackers|hackers|"
    r"researchers|employees|someone|somebody|anyone|nobody|he|she|they|it|we|i|(?:the|a|an|my|our|his|her|their|your|some|many|most|this|that) "
    r"(?:\w+ ){0,2}\w+)"
)
_ADVERB: Final = r"(?:often|sometimes|always|never|usually|simply|just|may|might|can|could|should|would|will|must|to|try to|tries to|tried to|tend to|often|really|not|ever|also|then|has|have|had|been|did|does|do) "
_OPENINGS: Final = (
    # How do I, is it safe to, why do models, what happens if a player
    r"(?:how|why|when|where|who|what|which|whether|should|may|is it|was it|are there|is there|does|did|do people|do you have to)\b[^,;]{0,100}",
    # told me to, asked the jury to
    rf"\b{_ASKED} {_PERSON} (?:not )?to (?:\w+ )?",
    # he often, the new law may, most students
    rf"(?:^|\b(?:that|because|when|if|where|while|why|who|which|and then) ){_WHO} (?:{_ADVERB}){{0,3}}",
    # the phrase, attacks like, words such as
    r"\b(?:phrases?|sentences?|words?|text|terms?|prompts?|messages?|attacks?|strings?|requests?|inputs?|title|says?|called|like|such as|e\.?g\.?|namely|contains?|means?)[ :,]*[\"'`(\[]*",
    r"\b(?:synonyms? (?:of|for)|difference between|definition of|meaning of|examples? of|history of|attempts? (?:to|at)|tr(?:y|ies|ied|ying) to|refus(?:e|es|ed|ing) to|risk of|prevent\w*(?: \w+){0,4} from|against|detects?|detecting|protect\w*(?: \w+){0,3} from)\b[^.,;:]{0,40}",
    # The same in other tongues: wie kann ich, come faccio a, comment, como, kak
    r"(?:wie|womit|warum|wann|darf man|soll ich|comment|pourquoi|est.ce que je|puis.je|come (?:si )?(?:posso|faccio)|perche|posso|como (?:puedo|se|hago|posso|faco|desativo)|puedo|por que|hoe (?:kan|moet)|waarom|mag ik|hur|varfor|hvordan|hvorfor|jak|dlaczego|czy moge|nasil|neden|bagaimana|как|почему|можно ли|зачем|як|чому|πως|γιατι|如何|怎么|怎樣|怎样|为什么|為什麼|どうやって|どうすれば|なぜ|어떻게|왜|كيف|لماذا|هل يمكن|איך|למה|कैसे|क्यों)[^,;]{0,60}",
)
_REPORTED: Final = re2.compile("(?i)(?:" + "|".join(_OPENINGS) + ")$")
# An order that follows an opening all the same: "can you", "you should", "I want you to", "please".
_ORDERED: Final = re2.compile(
    r"(?i)\b(?:please|kindly|now|you|why not|how about|what about|bitte|du|sie|assistant|ai|model|bot|chatgpt|must|task|instead)\b[^.,;]{0,40}$"
)
_NEGATED: Final = re2.compile(
    r"(?i)\b(?:do not|don.?t|never|not|cannot|can.?t|must not|may not|without|no one may|refuse to|avoid|nicht|niemals|"
    r"keine?n?|jamais|ne pas|nunca|no debes|non|mai|refrain from|under no circumstances)\b[^.!?\n]{0,50}$"
)
_ENDS: Final = ".!?\n;:"
_BORDER: Final = re.compile(r"[^\w]*[.!?\n;]")


def _before(text: str, start: int) -> str:
    """What stands before a match in its own sentence."""
    part = text[max(0, start - _REACH) : start]
    cut = max(map(part.rfind, _ENDS))
    if cut < 0 and start > _REACH:
        return ""
    return part[cut + 1 :].lstrip(" \t\"'*->#")


def is_reported(text: str, start: int) -> bool:
    """Whether the match at `start` is what somebody asks about or tells of, rather than an order."""
    before = _before(text, start)
    if len(before) < 2:
        return False
    return _REPORTED.search(before) is not None and _ORDERED.search(before) is None


def is_negated(text: str, start: int, end: int) -> bool:
    """Whether the match says what must not be told: "never reveal your instructions" protects them."""
    return _NEGATED.search(f"{_before(text, start)}{text[start:end].partition(' ')[0]} ") is not None


def is_mention(signature: Signature, spans: Sequence[Found], view: View, *, talk: bool) -> bool:
    """Whether a signature matches only where its words are quoted, asked about or told of.

    What was hidden in an encoding is never a mention.
    """
    if view.depth:
        return False
    protects = signature.family == "prompt_extraction"
    overrides = signature.family == "instruction_override"
    return all(
        (talk and _is_quoted(view.text, start, end))
        or is_reported(view.text, start)
        or (protects and is_negated(view.text, start, end))
        or (overrides and is_forbidden(signature, view.text, start, end))
        for start, end in ((_begin(view.text, start, end), end) for _, _, start, end in spans)
    )


def is_denied(signature: Signature, spans: Sequence[Found], view: View) -> bool:
    """Whether a signature of an override matches only behind a "do not": all that can be said of a reply, which comes in
    pieces."""
    return (
        not view.depth
        and signature.family == "instruction_override"
        and all(is_forbidden(signature, view.text, start, end, behind=False) for _, _, start, end in spans)
    )


def _begin(text: str, start: int, end: int) -> int:
    """Where a match begins to say something: a signature may begin with what ends the sentence before."""
    ended = _BORDER.match(text, start, end)
    return start if ended is None else ended.end()


def _is_quoted(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` lies between quotation marks on its line, the opening one not 60 characters away."""
    before = text[max(0, start - 60) : start + 1].rpartition("\n")[2]
    for quote in _QUOTES:
        at = before.rfind(quote)
        # An apostrophe is no quotation mark, nor is what opens a value in JSON, YAML or an attribute.
        if at < 0 or (at and before[at - 1].isalnum()) or before[:at].rstrip(" ").endswith(_VALUES):
            continue
        closing = text.find(quote, max(start + 1, end - 3), end + 120)
        if closing >= 0:
            return True
    return False
