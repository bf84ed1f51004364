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
import sys
from typing import Any

_DONE = "llmshield_keeps_trailers_out"


def keep_trailers_out(*, load: bool) -> None:
    """Have uvicorn's httptools server keep trailers out of the scope, in this process; safe to repeat.

    It has to be done before the first connection. `load` False: only where uvicorn is there already, which takes 10 ms;
    loading it for an app that another server runs takes 150 ms.
    """
    if not load and "uvicorn" not in sys.modules:
        return
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return  # no httptools: it runs its h11 server, or is none at all
    protocol: Any = HttpToolsProtocol
    if getattr(protocol, _DONE, False):
        return
    complete = protocol.on_headers_complete

    @functools.wraps(complete)
    def on_headers_complete(self: Any) -> None:
        complete(self)
        self.headers = list(self.headers)  # the scope keeps the first one

    protocol.on_headers_complete = on_headers_complete
    setattr(protocol, _DONE, True)
