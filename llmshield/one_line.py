"""A text as one line that forges nothing: for logs, records and answers."""

from __future__ import annotations

import unicodedata


def one_line(text: str, limit: int = 2000) -> str:
    """The text as one line of at most `limit` characters (and a note of how many were cut).

    Line ends, ANSI escapes, U+0085, U+2028, U+2029, bidi controls, invisible characters and lone surrogates come
    out as visible escapes (CWE-117): a value can't forge a second record or repaint a terminal.
    """
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(char if char.isprintable() or _is_space(char) else _escape(char) for char in text)
    return f"{text}… ({cut} more characters)" if cut > 0 else text


def _is_space(char: str) -> bool:
    """Spaces of other scripts are not printable for Python, but harmless."""
    return unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    """`\\n`, `\\x1b`, `\\u2028`: as Python spells it."""
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
