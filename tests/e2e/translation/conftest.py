"""Official SDKs as one kind of client, and a gateway that takes each of them to a provider of any family."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types as gt

from llmshield.simulator import Simulator
from llmshield.testing import gateway

POLICY = """
version: 1
server: {store: "memory://"}
audit: {sink: "file://AUDIT"}
plugins:
  - {use: pii, entities: {"*": {action: replace}}, restore: true, scan: [user, tool]}
  - {use: injection, scan: [output]}
  - {use: failover}
providers:
  openai: {dialect: openai, base_url: "URL/v1"}
  anthropic: {dialect: anthropic, base_url: "URL"}
  gemini: {dialect: gemini, base_url: "URL"}
routes:
  - {match: {model: "to-openai*"}, to: [{provider: openai, model: gpt-4.1}]}
  - {match: {model: "to-anthropic*"}, to: [{provider: anthropic, model: claude-sonnet-4-5}]}
  - {match: {model: "to-gemini*"}, to: [{provider: gemini, model: gemini-2.5-flash}]}
  - {match: {model: "strict"}, to: [{provider: anthropic, model: claude-sonnet-4-5}, {provider: openai, model: gpt-4.1}], on_loss: refuse}
"""
TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass
class Said:
    """What an SDK's object says of an answer, whichever SDK it is."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """Id, name and arguments of each call of a tool."""
    finish: str = ""
    model: str = ""
    tokens: tuple[int, int] = (0, 0)


@dataclass
class Asked:
    """What a program wants of a model, whichever SDK it has."""

    model: str
    prompt: str
    stream: bool
    tools: tuple[str, ...] = ()
    """Names of tools that take a city."""
    turn: Any = None
    """Calls of tools (id, name, arguments) of the turn before, and their results."""
    image: str = ""
    """Base64 of a PNG."""
    schema: Any = None
    effort: str = ""


class Client:
    """An SDK: `send` asks with it, `said` reads what it gave."""

    sdk: Any

    async def ask(self, model: str, prompt: str, *, stream: bool, **wishes: Any) -> Said:
        """What is said of `Asked`'s fields; other words go to the SDK as they are."""
        known = {name: wishes.pop(name) for name in Asked.__dataclass_fields__ if name in wishes}
        return await self.send(Asked(model, prompt, stream, **known), **wishes)

    async def send(self, asked: Asked, **more: Any) -> Said:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.sdk.close()


class Chat(Client):
    """openai-python, chat completions."""

    def __init__(self, url: str) -> None:
        self.sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0)

    async def send(self, asked: Asked, **more: Any) -> Said:
        content: Any = asked.prompt
        if asked.image:
            content = [
                {"type": "text", "text": asked.prompt},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{asked.image}"}},
            ]
        messages: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": content},
        ]
        if asked.turn is not None:
            calls = [
                {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
                for i, n, a in asked.turn[0]
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            messages += [
                {"role": "tool", "tool_call_id": call[0], "content": result}
                for call, result in zip(*asked.turn, strict=True)
            ]
        if asked.tools:
            more["tools"] = [
                {"type": "function", "function": {"name": name, "parameters": TOOL}} for name in asked.tools
            ]
        if asked.schema is not None:
            more["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "it", "schema": asked.schema, "strict": True},
            }
        if asked.effort:
            more["reasoning_effort"] = asked.effort
        if not asked.stream:
            return self.said(
                await self.sdk.chat.completions.create(model=asked.model, messages=messages, **more)
            )
        async with self.sdk.chat.completions.stream(
            model=asked.model, messages=messages, stream_options={"include_usage": True}, **more
        ) as events:
            async for _ in events:
                pass
            return self.said(await events.get_final_completion())

    def said(self, reply: Any) -> Said:
        choice = reply.choices[0]
        calls = [
            (call.id, call.function.name, json.loads(call.function.arguments))
            for call in choice.message.tool_calls or ()
        ]
        thought = getattr(choice.message, "reasoning_content", None) or ""
        used = (reply.usage.prompt_tokens, reply.usage.completion_tokens)
        return Said(choice.message.content or "", thought, calls, choice.finish_reason, reply.model, used)


class Responses(Chat):
    """openai-python, the responses API."""

    async def send(self, asked: Asked, **more: Any) -> Said:
        content: list[Any] = [{"type": "input_text", "text": asked.prompt}]
        if asked.image:
            content.append(
                {
                    "type": "input_image",
                    "detail": "auto",
                    "image_url": f"data:image/png;base64,{asked.image}",
                }
            )
        items: list[Any] = [{"role": "user", "content": content}]
        if asked.turn is not None:
            items += [
                {"type": "function_call", "call_id": i, "name": n, "arguments": json.dumps(a)}
                for i, n, a in asked.turn[0]
            ]
            items += [
                {"type": "function_call_output", "call_id": call[0], "output": result}
                for call, result in zip(*asked.turn, strict=True)
            ]
        if asked.tools:
            more["tools"] = [
                {"type": "function", "name": name, "parameters": TOOL, "strict": True} for name in asked.tools
            ]
        if asked.schema is not None:
            more["text"] = {
                "format": {"type": "json_schema", "name": "it", "schema": asked.schema, "strict": True}
            }
        if asked.effort:
            more["reasoning"] = {"effort": asked.effort}
        given = {"model": asked.model, "instructions": "Be brief.", "input": items, **more}
        if not asked.stream:
            return self.said(await self.sdk.responses.create(**given))
        async with self.sdk.responses.stream(**given) as events:
            async for _ in events:
                pass
            return self.said(await events.get_final_response())

    def said(self, reply: Any) -> Said:
        calls = [
            (item.call_id, item.name, json.loads(item.arguments))
            for item in reply.output
            if item.type == "function_call"
        ]
        thought = "".join(
            part.text for item in reply.output if item.type == "reasoning" for part in item.summary
        )
        why = (
            reply.incomplete_details.reason if reply.incomplete_details else "tool_calls" if calls else "stop"
        )
        return Said(
            reply.output_text,
            thought,
            calls,
            why,
            reply.model,
            (reply.usage.input_tokens, reply.usage.output_tokens),
        )


class Messages(Client):
    """anthropic-python."""

    def __init__(self, url: str) -> None:
        self.sdk = anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-any", max_retries=0)

    async def send(self, asked: Asked, **more: Any) -> Said:
        content: Any = asked.prompt
        if asked.image:
            content = [
                {"type": "text", "text": asked.prompt},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": asked.image},
                },
            ]
        messages: list[Any] = [{"role": "user", "content": content}]
        if asked.turn is not None:
            messages.append(
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": i, "name": n, "input": a} for i, n, a in asked.turn[0]
                    ],
                }
            )
            results = [
                {"type": "tool_result", "tool_use_id": call[0], "content": result}
                for call, result in zip(*asked.turn, strict=True)
            ]
            messages.append({"role": "user", "content": results})
        if asked.tools:
            more["tools"] = [{"name": name, "input_schema": TOOL} for name in asked.tools]
        if asked.schema is not None:
            more["output_config"] = {"format": {"type": "json_schema", "schema": asked.schema}}
        if asked.effort:
            more["thinking"] = {"type": "enabled", "budget_tokens": 2000}
        given = {
            "model": asked.model,
            "max_tokens": 4000,
            "system": "Be brief.",
            "messages": messages,
            **more,
        }
        if not asked.stream:
            return self.said(await self.sdk.messages.create(**given))
        async with self.sdk.messages.stream(**given) as events:
            async for _ in events:
                pass
            return self.said(await events.get_final_message())

    def said(self, reply: Any) -> Said:
        calls = [(block.id, block.name, block.input) for block in reply.content if block.type == "tool_use"]
        text = "".join(block.text for block in reply.content if block.type == "text")
        thought = "".join(block.thinking for block in reply.content if block.type == "thinking")
        why = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length"}.get(
            reply.stop_reason, reply.stop_reason
        )
        return Said(
            text, thought, calls, why, reply.model, (reply.usage.input_tokens, reply.usage.output_tokens)
        )


class Gemini(Client):
    """google-genai."""

    def __init__(self, url: str) -> None:
        self.sdk = genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=url)).aio

    async def send(self, asked: Asked, **more: Any) -> Said:
        parts: list[Any] = [{"text": asked.prompt}]
        if asked.image:
            parts.append({"inline_data": {"mime_type": "image/png", "data": asked.image}})
        contents: list[Any] = [{"role": "user", "parts": parts}]
        if asked.turn is not None:
            contents.append(
                {
                    "role": "model",
                    "parts": [
                        {"function_call": {"id": i, "name": n, "args": a}} for i, n, a in asked.turn[0]
                    ],
                }
            )
            answered = [
                {"function_response": {"id": call[0], "name": call[1], "response": {"output": result}}}
                for call, result in zip(*asked.turn, strict=True)
            ]
            contents.append({"role": "user", "parts": answered})
        config: dict[str, Any] = {
            "system_instruction": "Be brief.",
            "automatic_function_calling": {"disable": True},
            **more,
        }
        if asked.tools:
            config["tools"] = [
                {
                    "function_declarations": [
                        {"name": name, "parameters_json_schema": TOOL} for name in asked.tools
                    ]
                }
            ]
        if asked.schema is not None:
            config |= {"response_mime_type": "application/json", "response_json_schema": asked.schema}
        if asked.effort:
            config["thinking_config"] = {"include_thoughts": True, "thinking_budget": 2000}
        given: Any = {"model": asked.model, "contents": contents, "config": config}
        if not asked.stream:
            return self.said([await self.sdk.models.generate_content(**given)])
        return self.said([chunk async for chunk in await self.sdk.models.generate_content_stream(**given)])

    def said(self, chunks: list[Any]) -> Said:
        out = Said(model=chunks[-1].model_version)
        for chunk in chunks:
            content = chunk.candidates[0].content
            for part in (content.parts if content is not None else None) or ():
                if part.function_call:
                    out.calls.append(
                        (part.function_call.id, part.function_call.name, part.function_call.args)
                    )
                elif part.thought:
                    out.thought += part.text or ""
                else:
                    out.text += part.text or ""
            if chunk.candidates[0].finish_reason:
                out.finish = chunk.candidates[0].finish_reason.value
        out.finish = {"STOP": "tool_calls" if out.calls else "stop", "MAX_TOKENS": "length"}.get(
            out.finish, out.finish
        )
        used = chunks[-1].usage_metadata
        out.tokens = (used.prompt_token_count, used.candidates_token_count + (used.thoughts_token_count or 0))
        return out

    async def aclose(self) -> None:
        await self.sdk.aclose()


CLIENTS: dict[str, Any] = {"chat": Chat, "responses": Responses, "messages": Messages, "gemini": Gemini}


@dataclass
class House:
    sim: Simulator
    clients: dict[str, Any]
    audit: Path

    async def records(self, count: int) -> list[Any]:
        """All decision records, once there are so many of them."""
        for _ in range(200):
            lines = self.audit.read_text().splitlines() if self.audit.exists() else []
            if len(lines) >= count:
                break
            await asyncio.sleep(0.02)
        return [json.loads(line) for line in lines]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator())
        url, _ = await stack.enter_async_context(
            gateway(POLICY.replace("URL", sim.url).replace("AUDIT", str(audit)))
        )
        clients = {name: client(url) for name, client in CLIENTS.items()}
        for client in clients.values():
            stack.push_async_callback(client.aclose)
        yield House(sim, clients, audit)
