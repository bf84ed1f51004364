"""Tools that run at the provider: what each use costs, how often they can be used, and what has no price.

A use costs a fee (a search of the web), tokens (the model reads the result and the whole context again), or
both. Fees are those of the price list and of `tool_prices`; a kind that neither knows is no bound at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmshield.call import Attempt
from llmshield.prices import ModelPrice

_AT_CLIENT = (
    "function", "custom", "computer", "local_shell", "apply_patch", "bash", "text_editor", "memory",
    "browser_toolset", "namespace",
)  # fmt: skip
"""Starts of types that run at the client."""

_NO_FEE = frozenset(
    {"mcp", "mcp_toolset", "mcp_servers", "web_fetch", "url_context", "tool_search", "google_file_search",
     "google_code_execution"}
)  # fmt: skip
"""Kinds that cost their tokens only, by their providers' pages."""

_GEMINI = {
    "googleSearch": "web_search", "googleSearchRetrieval": "web_search", "urlContext": "url_context",
    "codeExecution": "google_code_execution", "fileSearch": "google_file_search", "mcpServers": "mcp",
    "googleMaps": "google_maps", "enterpriseWebSearch": "enterprise_web_search",
}  # fmt: skip
_GEMINI_AT_CLIENT = ("functionDeclarations", "computerUse")

SEARCHES = "-search-"
"""In the name of a chat model that searches the web whether it is asked to or not."""

# The date behind a type's name: web_search_20250305, web_search_preview_2025_03_11, web_search_2025_08_26.
_DATE = re.compile(r"_(?:\d{8}|\d{4}_\d{2}_\d{2})$")

# https://platform.openai.com/docs/pricing#built-in-tools: "Web search preview (non-reasoning models): $25.00 / 1k calls".
_PREVIEW_FEE = 25 * 10**9


class Offered(NamedTuple):
    """What the provider's tools can add to a call.

    `rounds` is how often the context can be read again, `searches` how many of them are searches of the web,
    `fees` pico-USD for the other tools; `unpriced` a kind without a price. `silent` are fees of kinds whose uses
    this dialect does not report: they are charged once. `limit` is the number of rounds that the body does not
    state and has to carry.
    """

    rounds: int = 0
    searches: int = 0
    fees: int = 0
    unpriced: str = ""
    silent: int = 0
    limit: int | None = None


NOTHING = Offered()


def offered_by(attempt: Attempt, price: ModelPrice, most_rounds: int) -> Offered:
    """The tools that this attempt's body lets the provider run, `most_rounds` times where it states no bound."""
    kinds = set(_kinds(attempt))
    if not kinds:
        runs = any(name.startswith(("server_tool", "mcp", "compaction")) for name in attempt.unseen)
        return Offered(rounds=most_rounds) if runs else NOTHING
    rounds, limit = _rounds(attempt, most_rounds)
    fees = silent = searches = 0
    unpriced = ""
    for kind in sorted(kinds):
        if kind == "web_search":
            searches = 1 if price.once else rounds
            if kind not in price.tools:
                unpriced = kind
            continue
        fee = price.tools.get(kind)
        if fee is None and kind not in _NO_FEE:
            unpriced = kind
        elif fee:
            fees += fee * rounds
            silent += 0 if attempt.dialect == "openai_responses" else fee
    return Offered(rounds, searches, fees, unpriced, silent, limit)


def with_fees(attempt: Attempt, price: ModelPrice, given: Mapping[str, int]) -> Mapping[str, int]:
    """The fees of tools that hold for this attempt: the list's, dearer for the preview of the search at models
    that do not reason, and what the policy says."""
    fees = dict(price.tools)
    if "web_search" in fees and _reads_as_preview(attempt):
        fees["web_search"] = max(fees["web_search"], _PREVIEW_FEE)
    fees.update(given)
    for kind, gigabytes in _containers(attempt.body):
        if kind in fees:
            fees[kind] *= gigabytes
    return fees


# https://platform.openai.com/docs/pricing#built-in-tools: a container of 1 GB is 0.03 USD, of 4 GB 0.12, of 16 GB 0.48, of 64 GB
# 1.92: by the gigabyte.
_GIGABYTES = {"1g": 1, "4g": 4, "16g": 16, "64g": 64}


def _containers(body: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Tools whose container is larger than the usual one, each kind once, and how many times; what nobody knows counts
    as the largest."""
    found: dict[str, int] = {}
    tools = body.get("tools")
    for tool in tools if type(tools) is list else ():
        for held in (tool.get("container"), tool.get("environment")) if type(tool) is dict else ():
            limit = held.get("memory_limit") if type(held) is dict else None
            if limit is not None:
                kind = str(tool.get("type"))
                found[kind] = max(found.get(kind, 1), _GIGABYTES.get(str(limit), 64))
    yield from found.items()


def _reads_as_preview(attempt: Attempt) -> bool:
    preview = any(name.startswith("server_tool:web_search_preview") for name in attempt.unseen)
    return preview and attempt.model.startswith(("gpt-4", "gpt-3", "chatgpt"))


def _kinds(attempt: Attempt) -> Iterator[str]:
    body = attempt.body
    if body.get("web_search_options") is not None or (
        attempt.dialect == "openai_chat" and SEARCHES in attempt.model
    ):
        yield "web_search"
    if body.get("mcp_servers"):
        yield "mcp"
    tools = body.get("tools")
    for tool in tools if type(tools) is list else (tools,):
        if type(tool) is not dict:
            continue
        kind = tool.get("type")
        if attempt.dialect == "gemini":
            for name, value in tool.items():
                name = _camel(name)
                if value is not None and name not in _GEMINI_AT_CLIENT:
                    yield _GEMINI.get(name, name[:40])
        elif type(kind) is str and not kind.startswith(_AT_CLIENT):
            kind = _DATE.sub("", kind[:60])
            if kind.startswith("web_search_preview"):
                kind = "web_search"
            elif kind.startswith("tool_search"):
                kind = "tool_search"
            yield kind


def _rounds(attempt: Attempt, most: int) -> tuple[int, int | None]:
    """How often tools can run, and the bound that the body needs for it to be so."""
    body = attempt.body
    if attempt.dialect == "openai_chat":
        return 1, None  # the search before the answer
    if attempt.dialect == "openai_responses":
        stated = body.get("max_tool_calls")
        return (stated, None) if type(stated) is int and stated >= 0 else (most, most)
    if attempt.dialect == "anthropic_messages":
        tools: Any = body.get("tools")
        total, missing = 0, False
        for tool in tools if type(tools) is list else ():
            kind = tool.get("type") if type(tool) is dict else None
            if type(kind) is not str or kind.startswith(_AT_CLIENT):
                continue
            stated = tool.get("max_uses")
            if type(stated) is int and stated >= 0:
                total += stated
            else:
                total += most
                missing = missing or kind.startswith(LIMITED)
        return max(total, most if body.get("mcp_servers") else 0), most if missing else None
    return most, None


LIMITED = ("web_search_", "web_fetch_")
"""Anthropic's tools that take `max_uses`."""


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
