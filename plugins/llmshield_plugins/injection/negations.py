"""An order not to forget the rules has every word of one to forget them, and manuals are full of it, in every language.

Where a signature of `instruction_override` matches, "do not" may stand in front of the match ("don't ignore", "jangan
abaikan"), behind its first word ("ignorer ikke"), behind it ("... nicht") or in the verb itself ("...lara uymayı
unutma"). Only what stands right there counts, without a mark between, and not if what follows is an order of its own
("don't forget to ignore ...").
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import re2

from .folds import PLAIN
from .signatures import Signature

LOOK: Final = 40
"""Characters in front of a match and behind it that are looked at."""
_VERB_LOOK: Final = 14
"""Behind a match that ends in its verb."""


def _folded(*parts: str) -> str:
    return "|".join("".join(c if c < "\x80" else PLAIN.apply(c) for c in part) for part in parts)


# By language, since "na", "pa" or "no" in front of an order in another one denies nothing. Neighbours that a
# signature of one another may match share theirs.
_SLAVIC: Final = "nie|nigdy|ne|nemoj|nemojte|nikad|nikada|nikar|не|никогда не|нельзя|не можна|немој|немојте|не ги|не го|не бива да|недейте да"
_NORDIC: Final = "inte|aldrig|ikke|aldri|ekki|aldrei"
_IBERIAN: Final = "no|nunca|jamás|sin|non|não|sem|jamais"
_MALAY: Final = "jangan|jangan pernah|jangan sampai|tidak boleh|dilarang"
_NOT: Final = {
    "en": r"do not|do ?n.?t|never|must not|must ?n.?t|should not|should ?n.?t|cannot|can ?not|can.?t|may not|shall not|not to|without|avoid",
    "de": "nicht|niemals|nie", "nl": "niet|nooit", "af": "moenie|moet nie",
    **dict.fromkeys(("sv", "da", "no", "is"), _NORDIC),
    **dict.fromkeys(("es", "pt", "gl", "ca"), _IBERIAN),
    "it": "non|mai|senza", "fr": "ne|n|jamais|sans", "ro": "nu|niciodată|nu mai", "ht": "pa", "la": "ne|noli|nolite", "eo": "ne",
    **dict.fromkeys(("pl", "cs", "sk", "hr", "sl", "sr", "bg", "mk", "ru", "uk"), _SLAVIC),
    "hu": "ne|soha ne", "fi": "älä|älkää|ei saa", "et": "ära|ärge|ei tohi", "eu": "ez", "sq": "mos|mos i|mos e",
    "ga": "ná", "gd": "na", "cy": "paid ag?|peidiwch ag?|na", **dict.fromkeys(("id", "ms"), _MALAY),
    "tl": "huwag|huwag mong|huwag po", "vi": "đừng|đừng bao giờ|không nên|không được|chớ",
    "el": "μην|μη|δεν|ποτέ μην", "hy": "մի|երբեք մի", "ka": "არ|ნუ",
    "he": "אל|לא|בלי|אסור", "ar": "لا|ألا|عدم|دون|لم|لن",
}  # fmt: skip
# The Arabic order with "not" has a letter more in front.
_STANDS: Final = {
    language: re2.compile(
        rf"(?i)(?:^|[^\pL\pN])(?:{_folded(words)})[ \t'’]+(?:(?:ever|just|simply|blindly|please|bitte|sie) )?ت?$"
    )
    for language, words in _NOT.items()
}
# Two of them are none: "never not ignore".
_TWICE: Final = {
    language: re2.compile(
        rf"(?i)(?:^|[^\pL\pN])(?:{_folded(words)})[ \t'’]+(?:not|{_folded(words)})[ \t'’]+$"
    )
    for language, words in _NOT.items()
}
# "If you do not ignore ..." is a threat, and asks for it.
_IF: Final = re2.compile(
    r"(?i)(?:^|[^\pL\pN])(?:"
    + _folded("if|unless|until|wenn|falls|si|se|als|om|hvis|jeśli|gdy|dacă|ha|eğer|если|якщо")
    + r")[ \t][^.!?\n;:]*$"
)
# Scripts without blanks. 特别, 分别 ... end with the same sign and deny nothing.
_BEFORE_CLOSE: Final = re2.compile(
    "(?:"
    + _folded(
        "不要|请勿|請勿|切勿|勿|不可以?|不能|不得|不应该?|不應該?|不该|不該|从不|從不|从未|沒有|没有|不会|不會|不许|不許|禁止|莫|千万别|(?:^|[^特分个區区级性類类识識鑒鉴])别",
        "อย่า|ห้าม|ไม่ควร|มิควร|ຢ່າ|ຫ້າມ|ບໍ່ຄວນ|កុំ|មិនត្រូវ",
    )
    + ")(?:要|再|随意|随便|轻易|輕易|擅自|ได้|ให้)?$"
)
_GERMANIC: Final = frozenset({"de", "nl", "sv", "da", "no", "is"})
_SECOND: Final = r"(?:nicht|niemals|nie|niet|nooit|inte|aldrig|ikke|aldri|ekki)\b"
_INSIDE: Final = re2.compile(
    rf"(?i)^[^\s]+ (?:(?:sie|bitte|du|ihr|u|je|jullie|dem|det|de|die|dessa|disse|deze) )?(?:bitte )?{_SECOND}(.{{0,8}})"
)
_AFTER: Final = re2.compile(rf"(?i)^[\pL]* ?{_SECOND}(.{{0,8}})")
_ONLY: Final = ("nur", "bare", "kun", "bara", "endast", "alleen", "slechts")
# In the verb, or behind it.
_VERB: Final = re2.compile(
    "(?i)"
    + _folded(
        r"\b(?:unutma|yok sayma|görmezden gelme|göz ardı etme|es geçme|boşverme)",
        r"(?:ұмытпа|елемеуге болмайды|ескермеуге болмайды|болохгүй|бүү март|битгий)",
        r"(?: |^)(?:न|मत|ना|नहीं) (?:कर|भूल|हो)|नगर|नबिर्स|(?:करू|विसरू) न|न करता",
        r"(?:વગણશો નહ|અવગણના ન|અવગણવી ન|જશો નહ| ન ભૂલ)",
        r" ਨਾ ਕਰ| ਨਾ ਭੁੱਲ",
        r"বেন না|োনা|ো না| না কর",
        r"காதீ|காதே|க்கூடாது|க்க வேண்டாம்",
        r"వద్దు|కూడదు|కండి",
        r"ಬೇಡ|ಬಾರದು",
        r"രുത്",
        r"එපා|නොකර",
        r"(?: |^)(?:نہ|نہیں|مت) ",
        r"نگیر|نکن|نباید|نشو",
        r"မရှု|မမေ့|မပြု",
        r"አይበ|አትበ|አይር|አትር",
        r"無視(?:し|する|され)?(?:ない|なく|ては|てはいけ|べきでは)|無視せず|忘れ(?:ない|ず|ては)|破棄し(?:ない|ては)",
        r"(?:무시하|무시되|잊|잊어버리)지 (?:마|말|않|못)|무시(?:해서는|하면) 안|잊(?:어서는|으면) 안",
    )
)
# The order that follows "don't forget to", in the tongues in which it has another form than alone.
_AGAIN: Final = re2.compile(
    f"(?i){_folded('ignor|игнор|ігнор|missacht|negeren|vergessen|disregard|zanemar|занемар|αγνοήσ|pominąć')}"
)
_ENDS: Final = ".!?\n;。！？।"


def is_forbidden(signature: Signature, text: str, start: int, end: int, *, behind: bool = True) -> bool:
    """Whether what a signature of an override matches in `text[start:end]` is what must not be done.

    Without `behind`, what comes after the match has no say: of a stream it is not there yet.
    """
    match, after = text[start:end], text[end : end + LOOK] if behind else ""
    for mark in _ENDS:
        after = after.partition(mark)[0]
    if not (
        _stands_before(text[max(0, start - LOOK) : start], signature.language)
        or (behind and signature.language != "en" and _stands_behind(match, after, signature.language))
    ):
        return False
    # "Don't forget to ignore": from the second word on it is an order again.
    first = match.find(" ")
    rest = match[first:] if first > 0 else ""
    return _AGAIN.search(f"{rest}{after}") is None and (
        not rest or _compiled(signature.pattern).search(rest) is None
    )


def _stands_before(before: str, language: str) -> bool:
    stands = _STANDS.get(language)
    if stands is None:
        return _BEFORE_CLOSE.search(before) is not None
    return (
        stands.search(before) is not None
        and _TWICE[language].search(before) is None
        and _IF.search(before) is None
    )


def _stands_behind(match: str, after: str, language: str) -> bool:
    if language in _GERMANIC:
        for expression, text in ((_INSIDE, f"{match}{after}"), (_AFTER, after)):
            found = expression.search(text)
            if found is not None:
                return not found.group(1).strip().lower().startswith(_ONLY)
        return False
    last = " ".join(match.split(" ")[-3:])
    return _VERB.search(f"{last}{after[:_VERB_LOOK]}") is not None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    return re2.compile(f"(?i){pattern}")
