"""Pieces of a reply's tree, for dialects whose replies are nested objects rather than flat deltas."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from llmshield.call import Channel, Path
from llmshield.dialects import Piece


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
    """The leaves of a tool call's parsed arguments, strings and numbers, each on its own channel."""
    for key, value in node.items() if type(node) is dict else enumerate(node):
        kind = type(value)
        if kind is dict or kind is list:
            argument_pieces(pieces, value, channel, (*path, key))
        elif (kind is str and value) or kind is int or kind is float:
            leaf = Channel(channel.kind, channel.choice, channel.index, (*path, key), channel.tool)
            pieces.append(Piece(leaf, node, key, True))
