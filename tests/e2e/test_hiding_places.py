"""Nothing that a model reads hides from a guard, wherever it stands in a request and however it is written.

A sentinel that the policy denies goes into every string and beside every name of a rich request in each dialect; it
is refused and the provider sees nothing. Where no model reads (`METADATA`), personal data is refused in its stead.
What passes is what was guarded: the provider gets the tree that the guards saw, whatever the bytes did.
"""

import base64
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from llmshield.simulator import Simulator
from llmshield.testing import gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTINEL = "zebra umbrella teapot"
MAIL = "zebra@umbrella-teapot.example.com"
POLICY = f"""
version: 1
defaults: {{timeout: 10s}}
server: {{store: "memory://", limits: {{body: 1MiB, depth: 40}}}}
providers:
  openai: {{dialect: openai, base_url: "URL/v1"}}
  anthropic: {{dialect: anthropic, base_url: "URL"}}
  gemini: {{dialect: gemini, base_url: "URL"}}
plugins:
  - {{use: injection, deny: ["{SENTINEL}"], scan: [system, user, assistant, tool]}}
  - {{use: pii, entities: {{EMAIL_ADDRESS: {{action: block}}}}, scan: [system, user, assistant, tool]}}
"""
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256))).decode()
SCHEMA = {
    "type": "object", "title": "t", "description": "d", "required": ["city"], "$defs": {"x": {"enum": ["a", "b"]}},
    "properties": {"city": {"type": "string", "description": "town", "enum": ["Rome"], "default": "Rome",
                            "examples": ["Oslo"], "const": "c", "pattern": "p.*", "title": "City", "$comment": "note"}},
}  # fmt: skip

# dialect: (path, body)
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {
        "model": "gpt-4o", "user": "u", "metadata": {"team": "blue"}, "safety_identifier": "s", "prompt_cache_key": "k",
        "stop": ["STOP"], "prediction": {"type": "content", "content": [{"type": "text", "text": "predicted"}]},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": SCHEMA}},
        "tools": [{"type": "function", "function": {"name": "f", "description": "what it does", "parameters": SCHEMA}},
                  {"type": "custom", "custom": {"name": "c", "description": "d", "format": {
                      "type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "functions": [{"name": "old", "description": "d", "parameters": SCHEMA}],
        "web_search_options": {"user_location": {"type": "approximate", "approximate": {"city": "Rome", "country": "IT"}}},
        "messages": [
            {"role": "system", "content": "be brief", "name": "boss"},
            {"role": "developer", "content": [{"type": "text", "text": "rules"}]},
            {"role": "user", "name": "ada", "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}", "detail": "low", "alt": "a cat"}},
                {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}, "transcript": "spoken"},
                {"type": "file", "file": {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{PICTURE}"}}]},
            {"role": "assistant", "content": "well", "refusal": "no", "reasoning_content": "hm", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome", "n": [{"deep": "x"}]}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "c", "input": "free text"}}],
             "function_call": {"name": "old", "arguments": "{}"}},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
            {"role": "tool", "tool_call_id": "call_2", "content": '{"result": "rain", "more": ["x\\u00e9"]}'},
            {"role": "function", "name": "old", "content": "old result"},
            {"role": "user", "content": "and now?"}],
    }),
    "responses": ("/v1/responses", {
        "model": "gpt-4o", "instructions": "be brief", "user": "u", "metadata": {"team": "blue"}, "safety_identifier": "s",
        "prompt_cache_key": "k", "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"],
        "prompt": {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada", "doc": {"type": "input_text", "text": "var"}}},
        "text": {"format": {"type": "json_schema", "name": "n", "description": "d", "schema": SCHEMA}},
        "tools": [{"type": "function", "name": "f", "description": "what it does", "parameters": SCHEMA},
                  {"type": "mcp", "server_label": "l", "server_description": "d", "server_url": "https://mcp.example.com/x",
                   "allowed_tools": ["one"]},
                  {"type": "web_search", "user_location": {"type": "approximate", "city": "Rome"}}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {"role": "developer", "content": "rules"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}", "detail": "low", "caption": "a cat"},
                {"type": "input_file", "filename": "report.pdf", "file_data": f"data:application/pdf;base64,{PICTURE}"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [
                {"type": "output_text", "text": "well", "annotations": [
                    {"type": "url_citation", "url": "https://example.com/a", "title": "A page", "start_index": 0, "end_index": 1}]},
                {"type": "refusal", "refusal": "no"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "thought"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"city": "Rome", "n": [{"deep": "x"}]}'},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "more rain"}]},
            {"type": "custom_tool_call", "call_id": "c2", "name": "c", "input": "free text"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "its result"},
            {"type": "mcp_call", "id": "m1", "name": "t", "server_label": "l", "arguments": '{"a": "b"}', "output": "from afar", "error": "none"},
            {"type": "mcp_list_tools", "id": "m2", "server_label": "l", "tools": [
                {"name": "t", "description": "d", "input_schema": SCHEMA, "annotations": {"title": "T"}}]},
            {"type": "web_search_call", "id": "w1", "status": "completed", "action": {"type": "search", "query": "weather"}},
            {"type": "file_search_call", "id": "fs1", "status": "completed", "queries": ["q"], "results": [
                {"file_id": "file_1", "filename": "a.txt", "text": "found", "attributes": {"author": "x"}}]},
            {"type": "code_interpreter_call", "id": "ci1", "container_id": "cn1", "code": "print(1)", "status": "completed",
             "outputs": [{"type": "logs", "logs": "1"}]},
            {"type": "local_shell_call", "id": "ls1", "call_id": "c3", "status": "completed", "action": {
                "type": "exec", "command": ["ls", "-l"], "env": {"HOME": "x"}, "working_directory": "w", "user": "me"}},
            {"type": "local_shell_call_output", "id": "ls2", "call_id": "c3", "output": "files"},
            {"type": "computer_call", "id": "cc1", "call_id": "c4", "status": "completed", "pending_safety_checks": [
                {"id": "sc1", "code": "code", "message": "careful"}], "action": {"type": "type", "text": "typed"}},
            {"role": "user", "content": "and now?"}],
    }),
    "completions": ("/v1/completions", {
        "model": "gpt-3.5-turbo-instruct", "prompt": ["once", "twice"], "suffix": "the end", "stop": "STOP", "user": "u"}),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["once", "twice"], "user": "u"}),
    "messages": ("/v1/messages", {
        "model": "claude-haiku-4-5", "max_tokens": 100, "metadata": {"user_id": "u"}, "stop_sequences": ["STOP"],
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "description": "what it does", "input_schema": SCHEMA},
                  {"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["example.com"],
                   "user_location": {"type": "approximate", "city": "Rome"}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "mcp_servers": [{"type": "url", "url": "https://mcp.example.com", "name": "m", "tool_configuration": {"allowed_tools": ["t"]}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "look", "citations": [{"type": "char_location", "cited_text": "quoted",
                    "document_index": 0, "document_title": "T", "start_char_index": 0, "end_char_index": 1}]},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}, "alt": "a cat"},
                {"type": "document", "title": "Tides", "context": "a leaflet", "citations": {"enabled": True},
                 "source": {"type": "text", "media_type": "text/plain", "data": "high at noon"}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
                {"type": "search_result", "title": "Found", "source": "https://example.com/s", "content": [{"type": "text", "text": "hit"}]},
                {"type": "container_upload", "file_id": "file_1"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"},
                {"type": "redacted_thinking", "data": "c2VhbGVk"},
                {"type": "text", "text": "well"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"city": "Rome", "n": [{"deep": "x"}]}},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "tides"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
                    {"type": "web_search_result", "title": "Page", "url": "https://example.com/p", "encrypted_content": "c2VhbGVk", "page_age": "1 day"}]},
                {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "t", "server_name": "m", "input": {"a": "b"}},
                {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [{"type": "text", "text": "afar"}]}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "plain rain"}]},
            {"role": "assistant", "content": "prefill"}],
    }),
    "gemini": ("/v1beta/models/gemini-2.5-flash:generateContent", {
        "systemInstruction": {"role": "system", "parts": [{"text": "be brief"}]},
        "labels": {"team": "blue"}, "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {"stopSequences": ["STOP"], "responseMimeType": "application/json", "responseSchema": SCHEMA,
                             "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}},
        "tools": [{"functionDeclarations": [{"name": "f", "description": "what it does", "parameters": SCHEMA, "response": SCHEMA}]},
                  {"googleSearch": {}}, {"urlContext": {}}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "contents": [
            {"role": "user", "parts": [
                {"text": "look"},
                {"inlineData": {"mimeType": "image/png", "data": PICTURE, "displayName": "cat.png"}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.com/files/1", "displayName": "report.pdf"}}]},
            {"role": "model", "parts": [
                {"text": "thought", "thought": True}, {"text": "well", "thoughtSignature": "c2lnbmF0dXJl"},
                {"functionCall": {"id": "c1", "name": "f", "args": {"city": "Rome", "n": [{"deep": "x"}]}}},
                {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
                {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "f", "response": {"result": "rain", "more": ["x"]}}}]},
            {"role": "user", "parts": [{"text": "and now?"}]}],
    }),
}  # fmt: skip
METADATA = {
    "chat": (
        "/user",
        "/metadata/*",
        "/safety_identifier",
        "/prompt_cache_key",
        "/model",
        "/messages/*/content/*/image_url/url",
    ),
    "responses": (
        "/user",
        "/metadata/*",
        "/safety_identifier",
        "/prompt_cache_key",
        "/model",
        "/input/*/content/*/image_url",
    ),
    "completions": ("/user", "/model"),
    "embeddings": ("/user", "/model"),
    "messages": ("/metadata/*", "/stop_sequences/*", "/model"),
    "gemini": ("/labels/*", "/generationConfig/stopSequences/*"),
}
"""Places that no model reads: rules for personal data hold there, those for prompts do not. A picture's address is
one: the provider fetches it."""

TURNS = {
    "chat": "messages",
    "responses": "input",
    "completions": "prompt",
    "embeddings": "input",
    "messages": "messages",
    "gemini": "contents",
}
SMALL = {
    "chat": [{"role": "user", "content": "hi"}],
    "responses": "hi",
    "completions": "hi",
    "embeddings": "hi",
    "messages": [{"role": "user", "content": "hi"}],
    "gemini": [{"parts": [{"text": "hi"}]}],
}

Step = str | int


def leaves(node: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The path of every string."""
    if isinstance(node, str):
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))


def objects(node: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The path of every object."""
    for key, value in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        yield from objects(value, (*path, key))
    if isinstance(node, dict):
        yield path


def changed(body: Any, path: tuple[Step, ...], new: Any) -> Any:
    """A copy with another value at this place; a function gets the old one."""
    twin = copy.deepcopy(body)
    if not path:
        return new(twin)
    node = twin
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = new(node[path[-1]]) if callable(new) else new
    return twin


def pruned(dialect: str, path: tuple[Step, ...]) -> tuple[Any, tuple[Step, ...]]:
    """The example with nothing but what leads to this place, and the place in it: small bodies are judged fast."""
    body = REQUESTS[dialect][1]
    kept = {key: body[key] for key in ("model", "max_tokens") if key in body}
    kept[TURNS[dialect]] = SMALL[dialect]
    if not path:
        return kept, ()
    top = body[path[0]]
    if len(path) > 1 and isinstance(top, list) and isinstance(path[1], int):
        return {**kept, path[0]: [top[path[1]]]}, (path[0], 0, *path[2:])
    return {**kept, path[0]: top}, path


def named(path: tuple[Step, ...]) -> str:
    return "".join(f"/{step}" for step in path)


def listed(path: tuple[Step, ...], patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        steps = pattern[1:].split("/")
        if len(steps) == len(path) and all(a in ("*", str(b)) for a, b in zip(steps, path, strict=True)):
            return True
    return False


class Place:
    """The gateway, its provider and a client."""

    def __init__(self, url: str, sim: Simulator, http: aiohttp.ClientSession) -> None:
        self.url, self.sim, self.http = url, sim, http

    async def post(self, path: str, data: bytes, **headers: str) -> tuple[int, bytes]:
        head = {"content-type": "application/json", "authorization": "Bearer sk-any", **headers}
        if path.startswith("/v1/messages"):
            head["anthropic-version"] = "2023-06-01"
        async with self.http.post(self.url + path, data=data, headers=head) as reply:
            return reply.status, await reply.read()

    async def misses(self, cases: dict[str, tuple[str, bytes, dict[str, str]]]) -> list[str]:
        """The cases that are not refused by a guard before the provider sees anything."""
        found = []
        for name, (path, data, headers) in cases.items():
            before = len(self.sim.calls)
            status, body = await self.post(path, data, **headers)
            if not 400 <= status < 500 or len(self.sim.calls) != before:
                found.append(f"{name}: {status}, the provider was asked {len(self.sim.calls) - before} times")
            elif b"Blocked by policy" not in body:
                found.append(f"{name}: {status}, but not by a guard: {body[:200].decode()}")
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator())
        url, _ = await stack.enter_async_context(gateway(POLICY.replace("URL", sim.url)))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)))
        yield Place(url, sim, http)


@pytest.mark.parametrize("dialect", REQUESTS)
async def test_the_example_itself_passes(place: Place, dialect: str) -> None:
    """What a guard saw is what the provider gets: the same tree, every field of it."""
    path, body = REQUESTS[dialect]
    status, reply = await place.post(path, orjson.dumps(body))

    assert status == 200, reply
    assert body == place.sim.calls[-1].json


@pytest.mark.parametrize("dialect", REQUESTS)
async def test_every_string_is_guarded(place: Place, dialect: str) -> None:
    path, body = REQUESTS[dialect]
    cases = {}
    for where in leaves(body):
        word = MAIL if listed(where, METADATA[dialect]) else SENTINEL
        small, here = pruned(dialect, where)
        made = changed(small, here, lambda old, w=word: w if len(old) > 20 else f"{old}, {w}, x")
        cases[named(where)] = (path, orjson.dumps(made), {})

    missed = await place.misses(cases)
    assert not missed, f"{len(missed)} of {len(cases)}\n" + "\n".join(missed)


@pytest.mark.parametrize("dialect", REQUESTS)
async def test_every_name_is_guarded(place: Place, dialect: str) -> None:
    """A field that nobody knows beside every known one: its name, and what stands in it."""
    path, body = REQUESTS[dialect]
    cases = {}
    for where in objects(body):
        if listed((*where, "x"), METADATA[dialect]):
            continue
        small, here = pruned(dialect, where)
        for what, field in (("name", {SENTINEL: "v"}), ("value", {"new_field": [{"a": {"b": [SENTINEL]}}]})):
            made = changed(small, here, lambda old, f=field: {**old, **f})
            cases[f"{named(where)} {what}"] = (path, orjson.dumps(made), {})

    missed = await place.misses(cases)
    assert not missed, f"{len(missed)} of {len(cases)}\n" + "\n".join(missed)
