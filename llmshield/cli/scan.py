"""`llmshield scan`: what a detector says of texts, one JSON verdict for each JSON line of standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmshield.cli._reading import policy_at

ROLES = ("system", "user", "assistant", "tool", "output")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def scan(
        plugin: Annotated[
            str, typer.Option(help="The detector: injection, pii, secrets, or another plugin that can scan.")
        ],
        policy: Annotated[
            Path | None, typer.Option("--policy", "-p", help="Take the plugin's settings from this policy.")
        ] = None,
    ) -> None:
        """Judge texts without a server.

        Reads one object a line, {"text": "...", "role": "user"} (role optional: system, user, assistant, tool,
        output), and writes one object a line, in order: action, score, spans (code points of the text as given),
        families, ms. A line that can't be read gets the action "block" and an "error".
        """
        scanner = _scanner(plugin, policy)
        write, flush = sys.stdout.write, sys.stdout.flush
        for line in sys.stdin.buffer:
            if line.strip():
                write(json.dumps(_verdict(scanner, line)) + "\n")
                flush()


def _scanner(name: str, policy: Path | None) -> Any:
    """The plugin's scanner, with its settings of the policy or its defaults. Raises: ShieldError."""
    from llmshield import registry
    from llmshield.errors import PluginError

    if policy is None:
        found: Any = registry.find("plugin", name)
        settings = found.Settings()
    else:
        loaded = policy_at(policy, "scan")
        entry = next((e for e in loaded.plugins if name in {e.name, e.use}), None)
        if entry is None:
            used = ", ".join(e.name for e in loaded.plugins) or "none"
            raise PluginError(f"{policy}: the policy uses no plugin {name!r}; it uses: {used}.")
        found, settings = entry.plugin, entry.settings
    if not hasattr(found, "scanner"):
        raise PluginError(f"The plugin {name!r} can't scan single texts; injection, pii and secrets can.")
    return found.scanner(settings)


def _verdict(scanner: Any, line: bytes) -> dict[str, Any]:
    try:
        given = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return _unreadable("the line is not JSON")
    text = given.get("text") if isinstance(given, dict) else None
    role = given.get("role", "user") if isinstance(given, dict) else None
    if not isinstance(text, str):
        return _unreadable('expected an object with a string "text"')
    if role not in ROLES:
        return _unreadable(f"role is none of {', '.join(ROLES)}")
    verdict: dict[str, Any] = scanner.scan(text, role)
    return verdict


def _unreadable(why: str) -> dict[str, Any]:
    """The verdict on what can't be judged: refused, as it would be in a call."""
    return {"action": "block", "score": 1.0, "spans": [], "families": [], "ms": 0.0, "error": why}
