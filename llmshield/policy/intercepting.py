"""What must hold between `egress:` and the rest of a policy."""

from __future__ import annotations

from llmshield.policy.egress import Egress
from llmshield.policy.providers import APP
from llmshield.policy.report import Report
from llmshield.policy.validate import Draft


def check(draft: Draft, report: Report) -> None:
    """Intercepted hosts that stand for nobody, or for somebody who can't be asked from there."""
    egress: Egress | None = draft.sections["egress"]
    if egress is None:
        return
    names = dict.fromkeys(name for name in draft.written("providers") if name != APP)
    for host, name in egress.hosts.items():
        if name not in names:
            message = f"found the provider {name!r}, which does not exist"
            report.add("LS301", ("egress", "hosts", host), message, report.suggest(name, names))
    if not egress.hosts:
        report.add("LS319", ("egress",), "`egress` has no effect: it names no `hosts`", at="key")
    for index, host in enumerate(egress.bypass.hosts):
        if egress.provider_of(host) is None:
            message = f"{host!r} has no effect: `hosts` does not have it"
            report.add("LS319", ("egress", "bypass", "hosts", index), message)
