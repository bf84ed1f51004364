"""Signs of life of gateway and proxy: a process that is there may answer nobody (it is stopped, or its event loop is stuck),
and the kernel goes on taking connections for it.

Each is asked once a second. The bounds count questions without an answer, not seconds: a machine or a run that stood
still itself has asked nobody meanwhile.
"""

from __future__ import annotations

from llmshield.egress.processes import Process
from llmshield.logs import log

ASK_S = 1.0
SILENT = 5
"""Questions without an answer until nobody is led to it any more. An event loop that does not turn for five seconds has
lost its clients' first byte anyway; a large body that is looked through takes less than one."""
HUNG = 30
"""As many until it is killed. What a busy loop has in hand it ends within that."""


def is_silent(process: Process) -> bool:
    """It is there, and answers nobody."""
    return process.unanswered > SILENT


class Pulse:
    """Asks both; call it every `ASK_S`."""

    def __init__(self) -> None:
        self._silent: Process | None = None
        """The gateway of which the proxy was told so."""

    def keeps_away(self, gateway: Process) -> bool:
        """No client is led to this gateway: it is silent, or the proxy has not been told that it answers again."""
        return is_silent(gateway) or self._silent is gateway

    def __call__(self, gateway: Process | None, proxy: Process | None) -> bool | None:
        """Ask, and kill what stays silent. True: the gateway has fallen silent; False: it answers again."""
        for process in (gateway, proxy):
            if process is not None and process.serves:
                _ask(process)
        if gateway is None or proxy is None or not gateway.serves:
            return None
        if is_silent(gateway):
            # Each time: who came between two of these has to be answered too.
            proxy.tell(gateway=False, silent_s=gateway.unanswered * ASK_S)
            if self._silent is gateway:
                return None
            self._silent = gateway
            log.error("gateway_silent", unanswered=gateway.unanswered)
            return True
        if self._silent is not gateway:
            return None
        self._silent = None
        log.warning("gateway_answers_again")
        proxy.tell(gateway=True)
        return False


def _ask(process: Process) -> None:
    if process.unanswered > HUNG:
        log.error("hung", process=process.name, unanswered=process.unanswered)
        process.kill()
        return
    process.unanswered += 1
    process.tell(alive=True)
