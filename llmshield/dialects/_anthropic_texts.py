"""The texts of a Messages request: every string leaf is one, unless it is on the written list here.

Rule 1: what this file does not know is a Text. An SDK that grows a field grows a Text.
Rule 2: names on the list count only where the API's own objects are read; in tool inputs, schemas and metadata
there is no list, and names of keys are texts as well.
Rule 3: signed blocks are shown to guards, but an edited one never travels with its seal (_anthropic_sealed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmshield.call import Call, Path, Role, Sealed, Text, TextKind
from llmshield.dialects._anthropic_sealed import SignedBlock, UnsignedBlock, is_edited
from llmshield.dialects._tree import (
    add_text,
    add_token,
    expect,
    refuse,
    walk_unknown,
    walk_value,
)
from llmshield.dialects._wire import folded, is_opaque, refuse_twins, seal_data

NOT_TEXT: dict[str, str] = {
    "type": "tag of the API's own objects",
    "role": "enum",
    "id": "id of a tool call, container or server tool call; made by the API",
    "tool_use_id": "id of a tool call",
    "tool_id": "id of a server tool call",
    "file_id": "id of an uploaded file (marked unseen)",
    "tab_id": "id of a browser tab",
    "download_id": "id of a download",
    "skill_id": "id of a skill (the container is marked unseen)",
    "version": "version of a skill",
    "previous_message_id": "id of a message",
    "model": "name of a model",
    "media_type": "enum",
    "file_type": "enum",
    "error_code": "enum",
    "ttl": "enum of cache_control",
    "effort": "enum",
    "display": "enum of thinking",
    "speed": "enum",
    "service_tier": "enum",
    "inference_geo": "name of a region",
    "mode": "enum of fallback_credit_token",
    "bill_to": "enum",
    "clear_at": "enum",
    "oversized_image": "enum",
    "response_inclusion": "enum",
    "prefix_mismatch_behavior": "enum",
    "retrieved_at": "time stamp made by the API",
    "stop_reason": "enum",
    "category": "enum of a refusal",
    "allowed_callers": "enums",
    "betas": "names of beta features (a header by rights)",
    "max_tokens": "number that the API counts with",
    "budget_tokens": "number that the API counts with",
    "max_content_tokens": "number that the API counts with",
    "value": "number that the API counts with (triggers of context_management)",
    "total": "number that the API counts with",
    "remaining": "number that the API counts with",
    "max_uses": "number that the API counts with",
    "max_characters": "number that the API counts with",
    "start_char_index": "offset",
    "end_char_index": "offset",
    "start_block_index": "offset",
    "end_block_index": "offset",
    "start_page_number": "offset",
    "end_page_number": "offset",
    "display_width_px": "number that the API counts with",
    "display_height_px": "number that the API counts with",
}
"""Leaves that no model reads, with the reason; skipped only while they look like what they should be."""

OPAQUE: dict[str, str] = {
    "signature": "seal of the API over a block",
    "encrypted_content": "sealed by the API",
    "encrypted_index": "sealed by the API",
    "encrypted_stdout": "sealed by the API",
    "authorization_token": "key for an MCP server; travels to the API only",
    "fallback_credit_token": "token of the API",
    "token": "token of the API (fallback_credit_token)",
}
"""Leaves without blanks that only the API can read; anything with a blank in it is a Text."""

TOOL_BLOCKS = (
    "tool_use", "tool_result", "server_tool_use", "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing",
    "tool_reference", "browser_state",
)  # fmt: skip
"""Blocks whose texts have the role `tool`, with everything whose type ends in `_tool_result`."""

CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_", "browser_toolset_")
"""Tools that run at the client; every other `type` runs at the provider and is unseen."""


def read_texts(call: Call, body: dict[str, Any]) -> None:
    """All texts of a request body, and what the provider holds unseen."""
    for key in body:
        reader = _TOP.get(key)
        if reader is None:
            refuse_twins(key, _TOP_FOLDED)
            walk_unknown(call, "user", body, key, (key,))
        else:
            reader(call, "user", body, key, (key,))


def mark_unseen(call: Call, what: str) -> None:
    """Note content that the provider holds or makes and no guard reads."""
    if what not in call.unseen:
        call.unseen.append(what)


def _messages(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    for index, message in enumerate(expect(holder[key], list, "/messages", "a list of messages")):
        if type(message) is not dict:
            refuse(f"/messages/{index}", "is no message object")
        said = message.get("role")
        if said == "user" or said == "assistant" or said == "system":
            role = said
        elif type(said) is str:
            role = "user"
        else:
            refuse(f"/messages/{index}/role", "is missing or no string")
        at = (key, index)
        content = message.get("content")
        if type(content) is str:
            if content:
                call.texts.append(Text(call, role, message, "content", (*at, "content")))
            if len(message) == 2 and said is role:
                continue
        for name in message:
            if name == "content":
                if type(content) is not str:
                    _content(call, role, message, name, (*at, name))
            elif name == "role":
                if said is role:
                    continue
                add_token(call, role, message, name, (*at, name))
            else:
                _field(call, role, message, name, (*at, name))


def _content(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A string, a list of blocks, or one object."""
    value = holder[key]
    if type(value) is list:
        if any(is_edited(block) for block in value):
            value[:] = [block for block in value if not is_edited(block)]
        for index, block in enumerate(value):
            if type(block) is not dict:
                refuse("/" + "/".join(map(str, (*path, index))), "is no content block")
            _block(call, role, block, (*path, index), value)
    elif type(value) is dict:
        _block(call, role, value, path, None)
    elif type(value) is str:
        if value:
            add_text(call, role, holder, key, path)
    elif value is not None:
        refuse("/" + "/".join(map(str, path)), "is neither a string nor content blocks")


def _block(call: Call, role: Role, block: dict[str, Any], path: Path, blocks: list[Any] | None) -> None:
    kind = block.get("type")
    if kind == "text":
        text = block.get("text")
        if type(text) is str:
            if text:
                call.texts.append(Text(call, role, block, "text", (*path, "text")))
            if len(block) == 2:
                return
        for key in block:
            if key != "type" and (key != "text" or type(text) is not str):
                _field(call, role, block, key, (*path, key))
        return
    if kind == "thinking" and blocks is not None and block.get("signature"):
        sealed: Sealed | None = SignedBlock(block, blocks)
    elif kind == "compaction":
        sealed = UnsignedBlock(block)
    else:
        sealed = None
        if kind in TOOL_BLOCKS or (type(kind) is str and kind.endswith("_tool_result")):
            role = "tool"
        elif kind == "container_upload":
            mark_unseen(call, "file_id")
    if sealed is not None:
        call.sealed.append(sealed)
    for key, value in block.items():
        if sealed is not None and type(value) is str and key in ("thinking", "content"):
            if value:
                add_text(call, role, block, key, (*path, key), sealed=sealed)
        elif kind == "redacted_thinking" and key == "data":
            _opaque(call, role, block, key, (*path, key))
        else:
            _field(call, role, block, key, (*path, key))


def _field(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """One field of one of the API's own objects."""
    reader = _FIELDS.get(key)
    if reader is None:
        walk_unknown(call, role, holder, key, path)
    else:
        reader(call, role, holder, key, path)


def _object(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """One of the API's own objects, or a list of them; something else than that is walked like any value."""
    value = holder[key]
    if type(value) is dict:
        for name in value:
            _field(call, role, value, name, (*path, name))
    elif type(value) is list:
        for index in range(len(value)):
            _object(call, role, value, index, (*path, index))
    else:
        walk_value(call, role, holder, key, path)


def _source(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Where the content of an image or document is: base64, a URL, a file, text, blocks; or a plain string."""
    value = holder[key]
    if type(value) is not dict:
        walk_value(call, role, holder, key, path)
        return
    _mark_source(call, value, "image" if holder.get("type") == "image" else "document")
    kind = value.get("type")
    for name in value:
        at = (*path, name)
        if name == "data" and kind == "base64" and type(value[name]) is str:
            seal_data(call, role, value, name, at)
        else:
            _field(call, role, value, name, at)


def _mark_source(call: Call, source: dict[str, Any], what: str) -> None:
    kind = source.get("type")
    if kind == "base64":
        mark_unseen(call, "pdf" if source.get("media_type") == "application/pdf" else what)
    elif kind not in ("text", "content"):  # here in full; whatever else there may be is elsewhere
        mark_unseen(call, "file_id" if kind == "file" else "url")


def _opaque(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is not str:
        _object(call, role, holder, key, path)
    elif not is_opaque(value):
        add_text(call, role, holder, key, path)


def _tools(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    tools = holder[key]
    if type(tools) is list:
        for tool in tools:
            _mark_tool(call, tool)
    _object(call, "tool", holder, key, path)


def _definition(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _mark_tool(call, holder[key])
    _object(call, "tool", holder, key, path)


def _mark_tool(call: Call, tool: Any) -> None:
    kind = tool.get("type") if type(tool) is dict else None
    if kind is not None and not (type(kind) is str and kind.startswith(CLIENT_TOOLS)):
        mark_unseen(call, "server_tools")


def _free(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """What a tool or a schema says: all strings, names and numbers."""
    walk_value(call, "tool", holder, key, path, numbers=True)


def _schema(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    walk_value(call, "tool", holder, key, path)


def _named(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _object(call, "tool", holder, key, path)


def _system(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    _content(call, "system", holder, key, path)


def _management(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    edits = value.get("edits") if type(value) is dict else None
    for edit in edits if type(edits) is list else ():
        if type(edit) is dict and str(edit.get("type")).startswith("compact"):
            mark_unseen(call, "compaction")  # another inference, beyond max_tokens
    _object(call, role, holder, key, path)


def _instructions(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    walk_value(call, "system", holder, key, path)


def _metadata(kind: TextKind) -> Callable[[Call, Role, Any, Any, Path], None]:
    def read(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
        walk_value(call, role, holder, key, path, kind)

    return read


def _marked(what: str, then: Callable[[Call, Role, Any, Any, Path], None]) -> Callable[..., None]:
    def read(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
        if holder[key]:
            mark_unseen(call, what)
        then(call, role, holder, key, path)

    return read


_PLAIN = """
text name title context description url thinking data cited_text document_title page_age toolset_name tool_name
server_name mcp_server_name document_index search_result_index stdout stderr return_code lines error_message error
path enabled defer_loading strict eager_input_streaming is_error allowed_domains blocked_domains user_location city
country region timezone configs default_config url_sources tools exclude_tools clear_tool_inputs display_number
caching is_file_update num_lines start_line total_lines old_lines old_start new_lines new_start total_pages
temperature top_p top_k disable_parallel_tool_use allowed_tools tool_configuration effective_at
"""
"""Fields whose names say nothing: their values are texts, as those of unknown fields; the names are not."""

_FIELDS: dict[str, Callable[[Call, Role, Any, Any, Path], None]] = {
    **dict.fromkeys(_PLAIN.split(), walk_value),
    **dict.fromkeys(NOT_TEXT, add_token),
    **dict.fromkeys(OPAQUE, _opaque),
    "content": _content,
    "source": _source,
    "input": _free,
    "input_examples": _free,
    "input_schema": _schema,
    "schema": _schema,
    "instructions": _instructions,
    "definition": _definition,
    "tool_changes": _named,
    "tool": _named,
    **dict.fromkeys(
        (
            "cache_control", "citations", "caller", "transformations", "tabs", "state_changes", "tool_references",
            "trigger", "from", "to", "keep", "clear_at_least", "edits", "format",
            "output_config", "thinking", "task_budget", "block_binding", "skills",
        ),
        _object,
    ),
}  # fmt: skip

_TOP: dict[str, Callable[[Call, Role, Any, Any, Path], None]] = {
    **_FIELDS,
    "messages": _messages,
    "system": _system,
    "tools": _tools,
    "tool_choice": _named,
    "mcp_servers": _marked("mcp_servers", _named),
    "container": _marked("container", _object),
    "thread": _marked("thread", _object),
    "fallbacks": _marked("fallbacks", _object),
    "compaction": _marked("compaction", _object),
    "context_management": _management,
    "diagnostics": _object,
    "billing_policy": _object,
    "metadata": _metadata("metadata"),
    "user_profile_id": _metadata("metadata"),
    "workspace_id": _metadata("metadata"),
    "stop_sequences": _metadata("metadata"),
    "stream": add_token,
}
_TOP_FOLDED = folded(_TOP)
