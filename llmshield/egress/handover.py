"""What the proxy in front has to know: where the gateway is and its token, which hosts are intercepted, what happens to
the others, and what is said when there is no gateway. Plain JSON: the proxy has nothing of ours installed.
"""

from __future__ import annotations

from typing import Any

from llmshield.errors import CallError
from llmshield.policy import Policy
from llmshield.traffic import Dialects

_PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "gemini": "/v1beta/models"}
RETRY_S = 2.0
"""A gateway that died is back within it."""


def handover(
    policy: Policy, gateway: tuple[str, int], token: str, own: tuple[tuple[str, int], ...] = ()
) -> dict[str, Any]:
    """For the proxy. `own` are addresses of ours that nobody may be connected to.

    Raises: ValueError where the policy intercepts nothing.
    """
    egress = policy.egress
    if egress is None or not egress.hosts:
        raise ValueError("the policy has no `egress.hosts`")
    hosts = {}
    for host, name in egress.hosts.items():
        provider = policy.providers[name]
        to = provider.connect
        hosts[host] = {
            "family": provider.dialect or "",
            "connect": [to.host, to.port] if to is not None else None,
        }
    return {
        "gateway": list(gateway),
        "token": token,
        "hosts": hosts,
        "unlisted": egress.unlisted,
        "on_no_sni": egress.on_no_sni or egress.unlisted,
        "websocket": egress.websocket,
        "grpc": egress.grpc,
        "bypass": {
            "clients": [str(network) for network in egress.bypass.clients],
            "hosts": list(egress.bypass.hosts),
        },
        "ports": list(egress.ports),
        "loopback": egress.loopback,
        "on_crash": egress.on_crash,
        "own": [list(each) for each in own],
        "errors": {"": unavailable("openai"), **{family: unavailable(family) for family in _PATHS}},
        "malformed": {"": malformed("openai"), **{family: malformed(family) for family in _PATHS}},
    }


def unavailable(family: str) -> dict[str, Any]:
    """What a client is told while there is no gateway, in the words of its provider's family."""
    error = CallError(
        "policy_unavailable",
        "The gateway that applies the policy is not running; the call is refused. Try again.",
        retry_after_s=RETRY_S,
        status=503,
        code="gateway_unavailable",
    )
    said = _written(family, error)
    said["headers"]["retry-after"] = f"{RETRY_S:.0f}"
    return said


def malformed(family: str) -> dict[str, Any]:
    """What a client is told whose request the proxy itself can't read, or won't."""
    return _written(family, CallError("bad_request", "The request is malformed HTTP; it was not sent on."))


def _written(family: str, error: CallError) -> dict[str, Any]:
    reply = Dialects().for_errors(_PATHS[family], {}).write_error(error, "")
    headers = {name: value for name, value in reply.headers.items() if value}
    return {"status": reply.status, "headers": headers, "body": reply.body.decode()}
