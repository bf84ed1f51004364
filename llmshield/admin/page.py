"""`/status` as a page for people: a table, no script, nothing loaded, every value escaped.

Its content security policy (`app.HEADERS`) lets nothing run and nothing load, whatever a model's or provider's name
says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from llmshield.redact import redact
from llmshield.windows import iso

_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem}table{border-collapse:collapse}"
    "th,td{padding:.3rem .8rem;text-align:left;border-bottom:1px solid #ccc}td.n{text-align:right}"
    ".open,.no{color:#a00}.half_open{color:#a60}.closed,.yes{color:#060}"
)
_COLUMNS = (
    "provider", "active", "circuit", "model", "last ok", "failures", "requests today", "failed", "tokens in",
    "tokens out", "requests left", "tokens left",
)  # fmt: skip
_LONGEST = 200


def preferred(accept: str) -> bool:
    """Whether an Accept header names `text/html` before, or rather than, JSON (RFC 9110, 12.5.1)."""
    html = json = 0.0
    for part in accept.split(",")[:30]:
        kind, *parameters = [each.strip().lower() for each in part.split(";")]
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if not math.isfinite(quality):
            quality = 0.0
        if kind in {"text/html", "application/xhtml+xml"}:
            html = max(html, quality)
        elif kind in {"application/json", "application/*"}:
            json = max(json, quality)
    return html > json


def render(status: Mapping[str, Any]) -> bytes:
    """The page. `status` is what `Runtime.status` tells."""
    policy, audit = status["policy"], status["audit"]
    facts = [
        ("version", status["version"]), ("ready", _word(status["ready"])), ("policy", policy["file"]),
        ("hash", policy["hash"]), ("mount", status["mount"]), ("up for", f"{status['uptime_s']:.0f} s"),
        ("records", f"{audit['written']} written, {audit['dropped']} dropped"),
        ("record trouble", audit["failure"] or "none"),
    ]  # fmt: skip
    rows = [_provider(name, each) for name, each in status["providers"].items()]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>llmshield</title>",
        f"<style>{_STYLE}</style><h1>llmshield</h1><table>",
        *[f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts],
        "</table><h2>Providers</h2><table>",
        "<tr>" + "".join(f"<th>{_text(name)}</th>" for name in _COLUMNS) + "</tr>",
        *rows,
        "</table><h2>Plugins</h2><table>",
        *[
            f"<tr><td>{_text(name)}</td><td>{_text(mode)}</td></tr>"
            for name, mode in status["plugins"].items()
        ],
        "</table></html>\n",
    ]
    return "\n".join(parts).encode("utf-8", "backslashreplace")


def _provider(name: str, each: Mapping[str, Any]) -> str:
    today, left = each["today"], each["remaining"]
    last_ok = iso(each["last_ok"]) if each["last_ok"] is not None else "never"
    words: Iterable[tuple[str, Any]] = (
        ("", name), (_word(each["active"]), _word(each["active"])), (each["circuit"], each["circuit"]),
        ("", each["model"] or ""), ("", last_ok), ("n", each["failures"]), ("n", today["requests"]),
        ("n", today["failed"]), ("n", today["input_tokens"]), ("n", today["output_tokens"]),
        ("n", _left(left["requests"])), ("n", _left(left["tokens"])),
    )  # fmt: skip
    return (
        "<tr>"
        + "".join(f"<td class={_text(kind) or 'w'}>{_text(word)}</td>" for kind, word in words)
        + "</tr>"
    )


def _left(value: int | None) -> str:
    return "" if value is None else str(value)


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _text(value: Any) -> str:
    """A value that may stand anywhere in the page."""
    return escape(redact(str(value))[:_LONGEST], quote=True)
