"""The page that `llmshield scan --report` writes: what was found, how often and where, for a person to read.

It holds no text unless asked for: a list of personal data would be one more place to guard. No script, nothing from
elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from llmshield.cli._scan_input import Item

ROWS = 2_000
"""Texts that are listed; the figures above the list count all."""

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--mark:#f5b83d66;--block:#c0392b;--flag:#b9770e}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
dl{display:flex;flex-wrap:wrap;gap:.75rem;margin:0}dl div{border:1px solid var(--line);border-radius:.5rem;padding:.5rem 1rem}
dt{font-size:.8rem;opacity:.7}dd{margin:0;font-size:1.4rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
meter{width:8rem}code{background:var(--soft);border-radius:.25rem;padding:0 .3rem;white-space:nowrap}
.block{color:var(--block)}.flag{color:var(--flag)}mark{background:var(--mark);color:inherit;border-radius:.2rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:.85rem}
"""


class Report:
    """Collects verdicts; `page()` is the HTML. `texts`: the texts stand in it, with what was found marked."""

    def __init__(self, plugin: str, *, texts: bool = False) -> None:
        self._plugin = plugin
        self._texts = texts
        self._actions: Counter[str] = Counter()
        self._errors = 0
        self._found: Counter[str] = Counter()
        self._in_texts: Counter[str] = Counter()
        self._highest: dict[str, float] = {}
        self._rows: list[str] = []
        self._listed = 0

    def add(self, item: Item, verdict: Mapping[str, Any]) -> None:
        """Count a verdict, and list it if there was anything."""
        self._actions[verdict["action"]] += 1
        self._errors += "error" in verdict
        spans = verdict["spans"]
        kinds = {span["type"] for span in spans} | set(verdict["families"])
        for span in spans:
            self._found[span["type"]] += 1
            self._highest[span["type"]] = max(self._highest.get(span["type"], 0.0), span["score"])
        for kind in kinds:
            self._in_texts[kind] += 1
            self._highest.setdefault(kind, verdict["score"])
        if verdict["action"] != "allow" or kinds:
            self._listed += 1
            if len(self._rows) < ROWS:
                self._rows.append(self._row(item, verdict))

    def _row(self, item: Item, verdict: Mapping[str, Any]) -> str:
        places = [
            f"<code>{escape(span['type'])}</code> {span['start']}–{span['end']} ({span['score']:.2f})"
            for span in verdict["spans"]
        ]
        where = {span["type"] for span in verdict["spans"]}
        places += [f"<code>{escape(name)}</code>" for name in verdict["families"] if name not in where]
        if "error" in verdict:
            places.append(escape(verdict["error"]))
        shown = f'<div class="text">{marked(item.text, verdict["spans"])}</div>' if self._texts else ""
        action = escape(verdict["action"])
        return (
            f'<tr><td class="n">{item.number}</td><td>{escape(item.role)}</td><td class="{action}">{action}</td>'
            f'<td class="n">{verdict["score"]:.2f}</td><td>{"<br>".join(places)}{shown}</td></tr>'
        )

    def page(self) -> str:
        """The whole page."""
        total = sum(self._actions.values())
        tiles = [("texts", total), *((name, self._actions[name]) for name in ("block", "flag", "allow"))]
        if self._errors:
            tiles.append(("not readable", self._errors))
        most = max(self._in_texts.values(), default=1)
        kinds = "".join(
            f'<tr><td><code>{escape(kind)}</code></td><td class="n">{self._found[kind] or count}</td>'
            f'<td class="n">{count}</td><td class="n">{self._highest[kind]:.2f}</td>'
            f'<td><meter max="{most}" value="{count}"></meter></td></tr>'
            for kind, count in self._in_texts.most_common()
        )
        more = (
            f"<p>The first {ROWS:,} of {self._listed:,} texts are listed.</p>" if self._listed > ROWS else ""
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            '<meta name="viewport" content="width=device-width"><title>llmshield scan</title>'
            f"<style>{_STYLE}</style></head><body><h1>llmshield scan: {escape(self._plugin)}</h1><dl>"
            + "".join(f"<div><dt>{name}</dt><dd>{count:,}</dd></div>" for name, count in tiles)
            + "</dl><h2>What was found</h2>"
            + (
                '<table><thead><tr><th>kind</th><th class="n">times</th><th class="n">texts</th>'
                f'<th class="n">highest score</th><th></th></tr></thead><tbody>{kinds}</tbody></table>'
                if kinds
                else "<p>Nothing.</p>"
            )
            + "<h2>Where</h2>"
            + (
                '<table><thead><tr><th class="n">line</th><th>role</th><th>action</th><th class="n">score</th>'
                "<th>kind, place in characters (score)</th></tr></thead>"
                f"<tbody>{''.join(self._rows)}</tbody></table>{more}"
                if self._rows
                else "<p>Nowhere.</p>"
            )
            + "</body></html>\n"
        )


def marked(text: str, spans: list[dict[str, Any]]) -> str:
    """A text as HTML, its spans marked; where they overlap, the first has it."""
    out: list[str] = []
    position = 0
    for span in sorted(spans, key=lambda span: (span["start"], -span["end"])):
        start, end = max(position, span["start"]), span["end"]
        if end <= start:
            continue
        out.append(escape(text[position:start]))
        out.append(f'<mark title="{escape(span["type"])}">{escape(text[start:end])}</mark>')
        position = end
    out.append(escape(text[position:]))
    return "".join(out).encode("utf-8", "replace").decode()
