"""A view: one text that a model could read out of the text as given, and the way back to where it stands.

A view knows its parent and how to find a place of its own in it, so that a hit in the third decoding of a
message is reported as a span of the message. Nothing is computed for that until a hit asks: the hot path
only builds strings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .folds import Fold
from .slices import translated

Span = tuple[int, int]
Locate = Callable[[int, int], Span]


class Piece(NamedTuple):
    """A part of a view's text and the span of its parent that it was read from."""

    text: str
    start: int
    end: int


class View:
    """One readable form of a text: `name` says how it was read, `depth` how many decodings lie below it."""

    __slots__ = ("_locate", "depth", "name", "parent", "text")

    def __init__(
        self,
        name: str,
        text: str,
        parent: View | None = None,
        locate: Locate | None = None,
        *,
        deeper: bool = False,
    ) -> None:
        self.name = name
        self.text = text
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + deeper
        self._locate = locate

    def span(self, start: int, end: int) -> Span:
        """The span of the text as given (code points) that `[start, end)` of this view was read from."""
        view: View = self
        while view.parent is not None:
            if view._locate is not None:
                start, end = view._locate(start, end)
            view = view.parent
        return start, end

    def path(self) -> str:
        """The names of all views from the text as given to this one, `plain > base64`."""
        names: list[str] = []
        view: View | None = self
        while view is not None and view.parent is not None:
            if view.name:  # an excerpt has none
                names.append(view.name)
            view = view.parent
        return " > ".join(reversed(names)) or "text"


def folded(name: str, parent: View, fold: Fold) -> View:
    """The parent's text under a character fold; the parent itself if nothing changes."""
    text = fold.apply(parent.text)
    if text == parent.text:
        return parent
    origins: list[int] = []

    def locate(start: int, end: int) -> Span:
        if not origins:
            origins.extend(fold.origins(parent.text))
        return origins[start], origins[end - 1] + 1 if end > start else origins[start]

    return View(name, text, parent, locate)


def same_length(name: str, parent: View, text: str) -> View:
    """A view made by changing characters one for one: places stay where they are."""
    return View(name, text, parent)


def without(name: str, parent: View, characters: str) -> View:
    """The parent's text without these ASCII characters; the parent itself if it has none of them."""
    text = translated(parent.text, dict.fromkeys(map(ord, characters)))
    if len(text) == len(parent.text):
        return parent
    origins: list[int] = []

    def locate(start: int, end: int) -> Span:
        if not origins:
            origins.extend(
                index for index, character in enumerate(parent.text) if character not in characters
            )
            origins.append(len(parent.text))
        return origins[start], origins[end - 1] + 1 if end > start else origins[start]

    return View(name, text, parent, locate)


def mirrored(name: str, parent: View, text: str) -> View:
    """A view that is its parent's text from the last character to the first."""
    size = len(parent.text)
    return View(name, text, parent, lambda start, end: (size - end, size - start), deeper=True)


def edited(
    name: str, parent: View, pieces: Iterable[Piece], *, keep: bool, deeper: bool = False
) -> View | None:
    """A view in which some parts are replaced (`keep`: the rest stays) or that holds the parts only, one a line.

    `pieces` come in order and do not overlap. None if there are none.
    """
    texts: list[str] = []
    offsets: list[int] = []  # where each part begins in the view
    sources: list[Span] = []
    at = last = 0
    source = parent.text

    def add(text: str, start: int, end: int) -> None:
        nonlocal at
        if text:
            texts.append(text)
            offsets.append(at)
            sources.append((start, end))
            at += len(text)

    any_piece = False
    for text, start, end in pieces:
        any_piece = True
        if keep:
            add(source[last:start], last, start)
            add(text, start, end)
        else:
            add(text, start, end)
            add("\n", end, end)
        last = end
    if not any_piece:
        return None
    if keep:
        add(source[last:], last, len(source))
    if not texts:
        return None

    def locate(start: int, end: int) -> Span:
        return _place(offsets, sources, texts, start)[0], _place(
            offsets, sources, texts, max(start, end - 1)
        )[1]

    return View(name, "".join(texts), parent, locate, deeper=deeper)


def _place(offsets: list[int], sources: list[Span], texts: list[str], at: int) -> Span:
    """The source span of one character: exact where a part has a whole number of source characters for each."""
    index = max(0, bisect_right(offsets, at) - 1)
    start, end = sources[index]
    step, rest = divmod(end - start, len(texts[index]))
    if rest or not step:
        return start, end
    start += (at - offsets[index]) * step
    return start, start + step
