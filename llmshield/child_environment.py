"""What other programs get of this process's environment: never the vault's master key, and no secret they don't need.

Who reads `/proc/PID/environ` of a helper, or a core file of it, finds what it was started with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import re2

from llmshield.redact import remember, shows_secret
from llmshield.secrets_patterns import SECRET_NAME, find_credentials

OURS = frozenset({"LLMSHIELD_SECRET_KEY", "LLMSHIELD_PREVIOUS_KEYS", "LLMSHIELD_ADMIN_TOKEN"})
"""Variables that are for llmshield's own processes."""

_SECRET_NAME = re2.compile(rf"(?i:(?:^|_)(?:key|pat|auth|cookie|dsn)s?$)|{SECRET_NAME}")


def without_ours(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a command of the user's, who may have put keys there for it: all but our own secrets."""
    given = os.environ if environ is None else environ
    return {name: value for name, value in given.items() if name not in OURS}


def without_secrets(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a tool of the system, or a helper that needs no key: nothing that looks like a secret, by
    its name, by its value, or because it is one that we hold."""
    return {
        name: value
        for name, value in without_ours(environ).items()
        if _SECRET_NAME.search(name) is None
        and (len(value) < 8 or not (shows_secret(value) or find_credentials(value)))
    }


def remember_environment(environ: Mapping[str, str] | None = None) -> None:
    """Hide, in every message from now on, what variables hold that are named like secrets: plugins and libraries
    read them too. Values that are references (`env://NAME`, a path) are none."""
    for name, value in (os.environ if environ is None else environ).items():
        if _SECRET_NAME.search(name) is not None and "/" not in value[:1] and "://" not in value[:24]:
            remember(value)
            for part in value.split(",") if "," in value else ():
                remember(part.strip())
