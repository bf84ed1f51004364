"""Blocks that the API has sealed: no edited text travels with a valid signature, in neither direction.

Thinking with a signature, in a request: guards see it; an edited block is dropped whole, since the API refuses one
that differs from its signature. In a reply: an edited block goes out with the signature `EDITED` (streams) or null
(whole replies), and is taken out of the conversation when the client sends it back. Blocks without any signature,
as other servers of this API write them, are ordinary text.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Sealed
from llmshield.dialects._tree import dump_str

EDITED = "llmshield.edited"
"""The signature of a thinking block that a filter changed on its way to the client (see _anthropic_stream)."""


class SignedBlock(Sealed):
    """A signed thinking block: edited, it is taken out of its message."""

    __slots__ = ()

    def __init__(self, block: Any, blocks: list[Any]) -> None:
        super().__init__(block, blocks, None, dump_str)

    def reseal(self) -> None:
        if self.dirty:
            self.dirty = False
            self.holder[:] = [block for block in self.holder if block is not self.tree]


class UnsignedBlock(Sealed):
    """A compaction block: edited, it goes on without what the API sealed it with."""

    __slots__ = ()

    def __init__(self, block: Any) -> None:
        super().__init__(block, block, None, dump_str)

    def reseal(self) -> None:
        if self.dirty:
            self.dirty = False
            for name in ("signature", "encrypted_content"):
                self.holder.pop(name, None)


def is_edited(block: Any) -> bool:
    """True for a thinking block that a filter of ours changed when it went out."""
    if type(block) is not dict or block.get("type") != "thinking" or "signature" not in block:
        return False
    return block["signature"] is None or block["signature"] == EDITED
