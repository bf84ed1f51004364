"""Pieces of a reply's tree, for dialects whose replies are nested objects rather than flat deltas."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from llmshield.call import Channel, Path
from llmshield.dialects import Piece
from llmshield.json_pieces import NAME


def other_pieces(
    pieces: list[Piece], node: Any, channel: Channel, not_text: Container[str], skip: tuple[str, ...] = ()
) -> None:
    """Every string leaf below `node` whose name is not in `not_text`, as a text that arrives whole.

    `skip` names fields of `node` itself that have been read already. Bytes in base64 are no text.
    """
    if type(node) is list:
        for index, value in enumerate(node):
            if type(value) is str:
                if value:
                    pieces.append(Piece(channel, node, index, True))
            elif type(value) is dict or type(value) is list:
                other_pieces(pieces, value, channel, not_text)
        return
    for key, value in node.items():
        if key in not_text or key in skip:
            continue
        if type(value) is str:
            if value and not (key == "data" and node.get("type") == "base64"):
                pieces.append(Piece(channel, node, key, True))
        elif type(value) is dict or type(value) is list:
            other_pieces(pieces, value, channel, not_text)


def argument_pieces(pieces: list[Piece], node: Any, channel: Channel, path: Path = ()) -> None:
    """The leaves of a tool call's parsed arguments and the names in them, each on its own
    channel: the same ones that `json_pieces` gives to arguments that come as JSON text."""
    named = type(node) is dict
    for key, value in node.items() if named else enumerate(node):
        kind = type(value)
        if kind is dict or kind is list:
            argument_pieces(pieces, value, channel, (*path, key))
        elif kind is not str or value:
            leaf = Channel(channel.kind, channel.choice, channel.index, (*path, key), channel.tool)
            pieces.append(Piece(leaf, node, key, True))
    if named:
        leaf = Channel(channel.kind, channel.choice, channel.index, (*path, NAME), channel.tool)
        pieces += [Piece(leaf, Names(node), name, True) for name in node if name]


class Names:
    """The names of an object in a reply, as a Piece's holder: reading gives the name, writing renames.

    Its Piece comes after those of the values: once it is renamed, a value is no more found under the old name.
    """

    __slots__ = ("_node",)

    def __init__(self, node: dict[str, Any]) -> None:
        self._node = node

    def __getitem__(self, name: str) -> str:
        return name

    def __setitem__(self, name: str, new: str) -> None:
        node = self._node
        if new == name:
            return
        while new in node:  # two names masked alike must not swallow each other
            new += "_"
        items = list(node.items())
        node.clear()
        for key, value in items:
            node[new if key == name else key] = value


class TextSoFar:
    """A text that should come in one event and comes in several: gives each part as a Piece's holder.

    Clients want it at once (the name of a tool), so nothing of it is held back; each part is judged with all that
    came before it. Where the filters change the whole, its last part goes out as they leave the whole: the client
    then has no value, and no name that would call another tool.
    """

    __slots__ = ("_nodes", "_raw")

    MOST = 64
    """Parts, each of which is read with all before it."""

    def __init__(self) -> None:
        self._raw: list[str] = []
        self._nodes: list[dict[str, Any]] = []

    def part(self, node: dict[str, Any], key: str) -> Any:
        """The holder for the next part, `node[key]`; None when there are more of them than anybody would send.

        A few servers say a name again with each delta: behind `MOST` parts, such a part stands for itself.
        """
        text: str = node[key]
        if len(self._raw) == self.MOST:
            return node if text == self._raw[0] else None
        holder = _Part(node, "".join(self._raw), tuple(self._nodes)) if self._raw else node
        self._raw.append(text)
        self._nodes.append(node)
        return holder


class _Part:
    """One part of a TextSoFar: read with what came before it, written without what the client has of that."""

    __slots__ = ("_before", "_earlier", "_node")

    def __init__(self, node: dict[str, Any], before: str, earlier: tuple[dict[str, Any], ...]) -> None:
        self._node = node
        self._before = before
        self._earlier = earlier

    def __getitem__(self, key: str) -> str:
        return self._before + str(self._node[key])

    def __setitem__(self, key: str, value: str) -> None:
        out = "".join([node[key] for node in self._earlier])
        self._node[key] = value[len(out) :] if value.startswith(out) else value
