"""What uvicorn's httptools server lets into `scope["headers"]`, and how it is kept out.

The list in the scope is the one that its parser goes on filling: the trailers of a chunked request are appended to
it, and in one packet with the head they are there before the app's first line runs. Nothing in the scope tells them
from headers then. But "trailer fields ought to be processed separately from the fields in the header section"
(RFC 9110, 6.5.1): a credential, a tenant or an address in them has passed whoever stands before us unread.

So the parser gets a list of its own for what comes behind the head. uvicorn's h11 server drops trailers itself. This
can go when uvicorn does either for httptools (seen in 0.54, https://github.com/Kludex/uvicorn).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULE = "uvicorn.protocols.http.httptools_impl"
_DONE = "llmshield_keeps_trailers_out"


def keep_trailers_out() -> None:
    """Have uvicorn's httptools server keep trailers out of the scope, in this process; safe to repeat.

    It has to be done before the first connection, and costs nothing where another server runs the app: what is not
    loaded yet is mended when it is.
    """
    module = sys.modules.get(_MODULE)
    if module is not None:
        _mend(module)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _mend(module: ModuleType) -> None:
    protocol: Any = getattr(module, "HttpToolsProtocol", None)
    if protocol is None or getattr(protocol, _DONE, False):
        return
    complete = protocol.on_headers_complete

    @functools.wraps(complete)
    def on_headers_complete(self: Any) -> None:
        complete(self)
        self.headers = list(self.headers)  # the scope keeps the first one

    protocol.on_headers_complete = on_headers_complete
    setattr(protocol, _DONE, True)


class _Waiting(MetaPathFinder):
    """Finds uvicorn's httptools server once, as it would have been found, and has it mended when it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Mending(spec.loader)
        return spec


class _Mending(Loader):
    """Another loader, and what is to be done behind it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _mend(module)
