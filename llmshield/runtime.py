"""Everything that one policy needs to run: chain, engine, pools, store, keys, record and metrics, made and ended
together. Mounts hold one; a reload makes the next one and lets calls in flight keep theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from llmshield import chain
from llmshield.errors import PluginError
from llmshield.policy import Policy

T = TypeVar("T")


class House:
    """What the house lends plugins, by type."""

    def __init__(self, things: Mapping[type[Any], Any]) -> None:
        self._things = dict(things)

    def get(self, kind: type[T]) -> T:
        """The one thing of this type. Raises: PluginError when there is none."""
        thing = self._things.get(kind)
        if thing is None:
            raise PluginError(f"The house has no {kind.__name__}; it has {', '.join(t.__name__ for t in self._things)}.")
        return thing  # type: ignore[no-any-return]
