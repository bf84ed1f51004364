"""The kernel's rules as a run sees them: put up with it, or waited for; and what becomes of them at its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmshield.egress import firewall
from llmshield.egress.rules import Rules, RulesError, check_listen
from llmshield.errors import ShieldError
from llmshield.logs import log

if TYPE_CHECKING:
    from llmshield.egress.running import Wanted


class Standing:
    """Rules of one run. `missing` says why they are not in place, if they are to be; only transparent mode has any."""

    def __init__(self, rules: Rules | None, *, sets: bool, bypasses: bool) -> None:
        self._rules = rules
        self._sets = sets
        self._bypasses = bypasses
        self.missing: str | None = "the rules of the kernel are not up" if rules is not None else None

    def begin(self) -> None:
        """The proxy listens: put the rules up, if that is ours to do. Raises: RulesError."""
        if self._rules is not None and self._sets:
            firewall.up(self._rules)
        self.look()

    def look(self) -> None:
        """See whether they stand. Who may not ask the kernel takes them for granted: then others look after them."""
        if self._rules is None:
            return
        try:
            found = firewall.find()
        except RulesError:
            self.missing = None
            return
        if found is None:
            self.missing = "the rules of the kernel are not up (llmshield egress rules up, or run --rules up)"
        elif found.port not in (None, self._rules.port):
            self.missing = (
                f"the rules of the kernel lead to port {found.port}, and the proxy is on {self._rules.port}"
            )
        elif found.uids and self._rules.uid not in found.uids and not found.gids:
            self.missing = (
                f"the rules of the kernel leave uid {found.uids[0]} out, and gateway and proxy run as uid"
                f" {self._rules.uid}: their own calls come back to them (llmshield egress rules up --uid {self._rules.uid})"
            )
        else:
            self.missing = None

    def end(self, *, crashed: bool) -> None:
        """The run ends. Rules that it put up go with it; after a crash they stay, so that clients are refused, unless
        the policy says `on_crash: bypass`."""
        if self._rules is None or not self._sets or (crashed and not self._bypasses):
            return
        try:
            firewall.down()
        except RulesError as error:
            log.error("rules_not_down", why=str(error))


def of(wanted: Wanted) -> Standing:
    """What this run has to do with rules. Raises: ShieldError where it is to set them and runs as a user whose own
    traffic they would redirect, or listens where they can't lead to."""
    egress = wanted.policy.egress
    if wanted.mode != "transparent" or egress is None:
        return Standing(None, sets=False, bypasses=False)
    uid = wanted.user.uid if wanted.user is not None else os.geteuid()
    port = wanted.listen.port
    if wanted.sets_rules:
        if uid == 0:
            raise ShieldError(
                "--rules up needs --uid USER: the user of gateway and proxy is the one whose own traffic is not"
                " redirected, and may not be root."
            )
        check_listen(wanted.listen.host)
        if port == 0 or port in egress.ports:
            raise ShieldError(
                f"--listen {wanted.listen}: rules lead to one port, which is not one of those that they redirect"
                f" ({', '.join(map(str, egress.ports))}); choose another one."
            )
    rules = Rules(port=port, uid=uid, ports=tuple(egress.ports))
    return Standing(rules, sets=wanted.sets_rules, bypasses=egress.on_crash == "bypass")
