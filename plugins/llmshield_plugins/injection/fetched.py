"""Which addresses of a reply are fetched without a click, and where one ends, by what stands in front of it.

Rules: https://spec.commonmark.org/0.31.2/#images (the words of an image may hold brackets, code and line breaks),
https://html.spec.whatwg.org/ (attributes that fetch), https://url.spec.whatwg.org/#url-parsing (tabs and line breaks in
an address are dropped, blanks and brackets before an `@` are not its end, any number of slashes is two).
"""

from __future__ import annotations

from typing import Final

import re2

CONTEXT: Final = 1_100
"""Characters in front of an address that are looked at."""

# Markdown: ![words](  and  [label]: , the latter in quotes and lists as well.
_DESTINATION: Final = re2.compile(r"\]\(\s*<?\s*$")
_DEFINITION: Final = re2.compile(r"(?:^|\n)[\s>*+\-0-9.)]{0,40}\[(?:[^\]\\]|\\[^\n]){1,500}\]:\s*<?\s*$")
_CODE: Final = re2.compile(r"`[^`\n]*`|<[^<>\n]*>")
# HTML: what follows may be a scheme that a blank or an escape cut off from its slashes.
_ATTRIBUTE: Final = re2.compile(
    r"(?i)\b(src|poster|data|background|href|lowsrc|dynsrc)\s*=\s*\\*[\"']?\s*(?:[a-z\s]{1,20}:?\s*)?$"
)
_CANDIDATES: Final = re2.compile(
    r"(?i)\b(?:srcset|imagesrcset|attributionsrc)\s*=\s*\\*(?:\"[^\"]*|'[^']*|[^\s\"'>]*)$"
)
_REFRESH: Final = re2.compile(r"(?i)\bcontent\s*=\s*\\*[\"']?[^\"'>]{0,80}\burl\s*=\s*[\"']?\s*$")
_CLICKED: Final = re2.compile(r"(?i)<(?:a|area)\s[^<>]*$")
# CSS.
_STYLE: Final = re2.compile(
    r"(?i)(?:\burl\(\s*\\*[\"']?|@import\s*\\*[\"']|\bimage-set\([^)]{0,200}[\"'])[a-z0-9\\: ]{0,20}$"
)
BROKEN: Final = 320
"""Characters in front of a line break that are looked at."""
# A value that fetches, with a tab or a line break in the address before its host is complete.
_BROKEN: Final = re2.compile(
    r"(?i)\b(?:src|srcset|poster|data|background|lowsrc|dynsrc)\s*=\s*\\*[\"']\s*"
    r"(?:[a-z]{1,6}:?[\\/]{0,4}|[\\/]{2,4})[^\"'/?#\\<>]{0,253}[\t\r\n]"
)


def is_fetched(before: str) -> bool:
    """Whether an address is fetched without a click; `before` ends where it begins and is cut to `CONTEXT`."""
    if _DESTINATION.search(before) is not None:
        return _is_image(before)
    attribute = _ATTRIBUTE.search(before)
    if attribute is not None:
        return attribute.group(1).lower() != "href" or _CLICKED.search(before) is None
    return any(form.search(before) is not None for form in (_DEFINITION, _STYLE, _CANDIDATES, _REFRESH))


def _is_image(before: str) -> bool:
    """Whether the words in front of `](` belong to an image; where their beginning is too far away, they do."""
    words = before[: before.rindex("](")]
    opened = words.rfind("![")
    if opened >= 0 and "](" not in words[opened:] and "\n\n" not in words[opened:]:
        return True
    if "`" in words or "<" in words:
        words = _CODE.sub(lambda match: "." * (match.end() - match.start()), words)
    depth = 1
    for at in range(len(words) - 1, -1, -1):
        if words[at] not in "[]" or (len(words[:at]) - len(words[:at].rstrip("\\"))) % 2:
            continue
        depth += 1 if words[at] == "]" else -1
        if not depth:
            return at > 0 and words[at - 1] == "!"
    return len(before) >= CONTEXT


def ends(before: str) -> str:
    """The characters that may follow the host of a fetched address, besides those with which a path begins."""
    front = before.rstrip()
    if front.endswith(("'", '"')):
        return front[-1]
    if front.endswith("<"):
        return ">"
    if front.endswith("]("):
        return ") \t\r\n"
    return ")>\"',; \t\r\n"


def broken(text: str, least: int) -> int | None:
    """Where, at `least` or behind it, an attribute that fetches gets a line break in its host; None if nowhere."""
    if "=" not in text:
        return None
    for match in _BROKEN.finditer(text):
        if match.end() > least:
            return match.start()
    return None
