"""Links and images of a reply: a host that nobody listed gets no request, and with it no data.

An image in Markdown or HTML is fetched by the reader's program without a click; its address can carry whatever the
model was told to put there. So addresses are looked at before the client gets them: one is held back until its host is
complete. Escapes that programs undo before they fetch (HTML's, Markdown's, JSON's) are undone here as well; what is
encoded is not looked into, since no program that renders text fetches it.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import re2
from pydantic import Field

from llmshield.call import Stop
from llmshield.hookspecs import Settings as Base
from llmshield.policy.globs import compile_globs
from llmshield.verdicts import Block

from .matches import finditer

Do = Literal["block", "flag", "allow"]

_ADDRESS: Final = re2.compile(
    r"(?i)(?:\b(?:https?|ftp|wss?):[\\/]{1,4}|[\\/]{2})(?:[^\s/?#@\\\"'<>()\[\]]{0,200}@)?"
    r"(\[[0-9a-f:.%]{2,60}\]|[^\s/?#:\\\"'<>()\[\]`|{}]{1,253})"
)
# What stands before an address that is fetched without a click: ![alt]( , [ref]: , src= , url( .
_IMAGE: Final = re2.compile(
    r"(?i)(?:!\[[^\]\n]{0,1000}\]\(\s*<?|(?:^|\n)\s{0,3}\[[^\]\n]{1,200}\]:\s*<?|\b(?:src|srcset|poster|data|background|href)\s*=\s*[\"']?|"
    r"url\(\s*[\"']?)$"
)
# The end of a piece that may be the beginning of an address: a word that may be a scheme, and what follows it.
_OPEN: Final = re2.compile(
    r"(?i)(?:\b[a-z]{1,5}(?::(?:[\\/]{1,4}[^\s\"'<>()`|{}]{0,500})?)?|[\\/]{1,2}[^\s\"'<>()`|{}]{0,500})$"
)
_CONTEXT: Final = 1_100
# `&#58;`, `&colon;`, `\\u003a`, and what Markdown writes before any mark; the second is the beginning of one.
_ESCAPE: Final = re2.compile(
    r"&(?:#[xX][0-9a-fA-F]{1,8}|#[0-9]{1,9}|[A-Za-z][A-Za-z0-9]{1,30});?"
    r"|\\(?:u\{[0-9a-fA-F]{1,6}\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[!-/:-@\[-`{-~])"
)
_ESCAPING: Final = re2.compile(r"(?:&#?[A-Za-z0-9]{0,12}|\\(?:[ux]\{?[0-9a-fA-F]{0,6})?)$")


def unescaped(text: str) -> tuple[str, list[int]]:
    """A text without its escapes, and for each character and the end the place in the text that it comes from."""
    out: list[str] = []
    places: list[int] = []
    last = 0
    for match in finditer(_ESCAPE, text):
        start, end = match.span()
        escape: str = match.group()
        if escape[0] == "&":
            read = html.unescape(escape)
        elif len(escape) == 2:
            read = escape[1]
        else:
            code = int(escape[2:].strip("{}"), 16)
            read = chr(code) if code < 0xD800 or 0xE000 <= code < 0x110000 else " "
        out += (text[last:start], read)
        places += (*range(last, start), *[start] * len(read))
        last = end
    out.append(text[last:])
    places += range(last, len(text) + 1)
    return "".join(out), places


class LinkSettings(Base):
    """Which hosts a reply may point to."""

    hosts: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        (), description="Hosts that are fine, as globs: `example.com`, `*.example.com`."
    )
    images: Do = Field("block", description="Images and whatever is fetched without a click, at other hosts.")
    links: Do = Field("flag", description="Links to other hosts.")


class Links:
    """The rule, compiled."""

    def __init__(self, settings: LinkSettings) -> None:
        self._listed = compile_globs(settings.hosts, ignore_case=True) if settings.hosts else _nobody
        self._images: Do = settings.images
        self._links: Do = settings.links

    def judge(self, before: str, host: str) -> tuple[str, Do]:
        """What an address at a host is, `image` or `link`, and what happens to it; `before` ends where it begins."""
        kind = "image" if _IMAGE.search(before) is not None else "link"
        if self._listed(host.rstrip(".").lower()):
            return kind, "allow"
        return kind, self._images if kind == "image" else self._links


def _nobody(name: str) -> bool:
    return False


class LinkFilter:
    """One channel of a reply: addresses go on when their host is known."""

    HOLD: Final = 520
    """Characters held back at most: an address whose host does not end is let go after that many, and judged."""

    __slots__ = ("_before", "_block", "_flag", "_held", "_rule", "_stopped")

    def __init__(self, rule: Links, block: Callable[[str], Block], flag: Callable[[str], None]) -> None:
        self._rule = rule
        self._block = block
        self._flag = flag
        self._held = ""
        self._before = ""
        self._stopped: Stop | None = None

    def feed(self, text: str) -> str | Stop:
        """Take a piece; return what may go on."""
        if self._stopped is not None:
            return self._stopped
        self._held += text
        before, tail = self._held[: -self.HOLD], self._held[-self.HOLD :]
        end = len(tail)
        opened = _OPEN.search(tail)
        if opened is not None:
            end = opened.start()
        if "&" in tail or "\\" in tail:
            escaping = _ESCAPING.search(tail)
            whole = len(tail) if escaping is None else escaping.start()
            read, places = unescaped(tail[:whole])
            opened = _OPEN.search(read)
            end = min(end, whole if opened is None else places[opened.start()])
        return self._release(len(before) + end)

    def flush(self) -> str | Stop:
        """The text ends, and with it every address."""
        if self._stopped is not None:
            return self._stopped
        return self._release(len(self._held))

    def _release(self, end: int) -> str | Stop:
        free = self._held[:end]
        if not self._judged(free, None) and ("&" in free or "\\" in free):
            self._judged(*unescaped(free))
        if self._stopped is not None:
            return self._stopped
        self._held = self._held[end:]
        self._before = (self._before + free)[-_CONTEXT:]
        return free

    def _judged(self, read: str, places: list[int] | None) -> bool:
        """Judge the addresses in a form of what is free; whether one stops the reply.

        `places` are where the characters come from, in the form without escapes, of which only such addresses count that
        had some.
        """
        for match in _ADDRESS.finditer(read):
            start = match.start()
            if places is not None:
                start = places[match.start()]
                if places[match.end()] - start == match.end() - match.start():
                    continue
            kind, do = self._rule.judge((self._before + read[: match.start()])[-_CONTEXT:], _host(match))
            if do == "block":
                self._stopped = Stop(self._block(kind), self._held[:start])
                self._held = ""
                return True
            if do == "flag":
                self._flag(kind)
        return False


def _host(match: Any) -> str:
    host: str = match.group(1)
    return host.strip("[]")
