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

from . import fetched
from .literals import speakable
from .matches import finditer

Do = Literal["block", "flag", "allow"]

_ADDRESS: Final = re2.compile(
    r"(?i)(?:\b(?:https?|ftp|wss?):([\\/]{0,64})|([\\/]{2,64}))(?:[^\s/?#\\\"'<>()\[\]`|{}]{0,256}@)?"
    r"(\[[0-9a-f:.%]{2,60}\]|[^\s/?#:@\\\"'<>()\[\]`|{}]{1,253})(:[0-9]{0,5})?"
)
# What stands behind a host that is none: a name and a password, of which the real host comes after the `@`.
_NO_HOST: Final = re2.compile(r"^(?:[^\s/?#\\\"'<>]{0,512}@|[^\s/?#\\\"'<>]{400})")
# The end of a piece that may be the beginning of an address: a word that may be a scheme, and what follows it.
_OPEN: Final = re2.compile(
    r"(?i)(?:\b[a-z]{1,5}(?::[\\/]{0,64})?|(?:\b(?:https?|ftp|wss?):|[\\/])[\\/]{0,64}[^\s\"'<>()`|{}]*)$"
)
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

    def judge(self, before: str, match: Any, after: str) -> tuple[str, Do]:
        """What an address is, `image` or `link`, and what happens to it; `before` ends where it begins, and `after`
        begins behind its host and port."""
        kind = "image" if fetched.is_fetched(before) else "link"
        if kind == "link" and match.group(1) == "":
            return kind, "allow"  # `http:80` is no link; in an image, a browser takes it for one
        host: str = match.group(3)
        unclear = _NO_HOST.search(after) is not None
        if kind == "image" and after and after[0] not in "/?#\\":
            unclear = unclear or after[0] not in fetched.ends(before)
        if not unclear and self._listed(host.strip("[]").rstrip(".").lower()):
            return kind, "allow"
        return kind, self.what_about(kind)

    def what_about(self, kind: str) -> Do:
        """What happens to an address at a host that is not listed."""
        return self._images if kind == "image" else self._links


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
        end = len(self._held)
        held = speakable(self._held)
        opened = _OPEN.search(held)
        if opened is not None:
            end = opened.start()
        tail = held[-self.HOLD :]
        if "&" in tail or "\\" in tail:
            escaping = _ESCAPING.search(tail)
            whole = len(tail) if escaping is None else escaping.start()
            read, places = unescaped(tail[:whole])
            opened = _OPEN.search(read)
            end = min(
                end, len(self._held) - len(tail) + (whole if opened is None else places[opened.start()])
            )
        # An address that is longer than what may be held is judged by what there is of it.
        return self._release(end if len(self._held) - end <= self.HOLD else len(self._held))

    def flush(self) -> str | Stop:
        """The text ends, and with it every address."""
        if self._stopped is not None:
            return self._stopped
        return self._release(len(self._held))

    def _release(self, end: int) -> str | Stop:
        free = self._held[:end]
        said = speakable(free)
        self._broken(said)
        if not self._judged(self._before, said, None) and ("&" in said or "\\" in said):
            read, places = unescaped(said)
            if _ADDRESS.search(read) is not None:
                self._judged(unescaped(self._before)[0], read, places)
        if self._stopped is not None:
            return self._stopped
        self._held = self._held[end:]
        self._before = (self._before + said)[-fetched.CONTEXT :]
        return free

    def _broken(self, free: str) -> None:
        """An address that a line break cuts before its host is complete names no host that could be listed."""
        if "\n" not in free and "\t" not in free and "\r" not in free:
            return
        before = self._before[-fetched.BROKEN :]
        at = fetched.broken(before + free, len(before))
        if at is not None:
            self._do("image", self._rule.what_about("image"), max(0, at - len(before)))

    def _judged(self, before: str, read: str, places: list[int] | None) -> bool:
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
            at, end = match.span()
            front = read[max(0, at - fetched.CONTEXT) : at]
            if at < fetched.CONTEXT:
                front = (before + front)[-fetched.CONTEXT :]
            if self._do(*self._rule.judge(front, match, read[end : end + self.HOLD]), start):
                return True
        return False

    def _do(self, kind: str, do: Do, start: int) -> bool:
        if do == "flag":
            self._flag(kind)
        if do != "block" or self._stopped is not None:
            return False
        self._stopped = Stop(self._block(kind), self._held[:start])
        self._held = ""
        return True
