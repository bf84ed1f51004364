"""How much a call can grow to, before it is sent.

A token of a byte-level tokenizer stands for at least one byte of text, and the names, quotes and braces of the
JSON around each message are more bytes than the few tokens that a chat template puts in their place. So the
serialised body's length in bytes is an upper bound of its text in tokens. Not in those bytes are: what a provider
adds for tools, pictures, and what it holds itself. These have bounds of their own below, or none.

An exact tokenizer would make the input's part four times smaller. It is left out: it counts the text, not what providers
put around it, and what has its tables in it is larger than all of llmshield (docs/plugins/cost_cap.md).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llmshield.call import Attempt, Tree
from llmshield.prices import Bound, ModelPrice
from llmshield_plugins.cost_cap.sound import all_dense
from llmshield_plugins.cost_cap.tools import SEARCHES, Offered

TEMPLATE_TOKENS = 64
"""Begin and end marks, and the bound that we may still put into the body."""

# https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview#pricing: a system prompt of 159-530 tokens
# for tools as such, and 245-735 for a tool that the provider defines (bash, text editor, computer).
_TOOLS_TOKENS = 1_024
_TYPED_TOOL_TOKENS = 1_024

# https://platform.openai.com/docs/guides/images-vision: gpt-4o-mini counts a picture as up to 48,169 tokens
# (2,833 and 8 tiles of 5,667), no other model as more than 10,000.
_IMAGE_TOKENS = 10_000
_IMAGE_TOKENS_BY_TILE = 50_000

_IN_BYTES = frozenset(
    {"audio", "audio_data", "encrypted_content", "token_ids", "image", "image_data", "image_url"}
)
"""Unseen content that is bounded all the same: it is in the body's bytes, or is a picture."""

_PICTURES = frozenset({"image", "image_data", "image_url"})
_MEDIA = _PICTURES | {"audio", "audio_data", "audio_id", "video"}
_PICTURE_TYPES = frozenset(
    {"image", "image_url", "input_image", "computer_screenshot", "image_generation_call"}
)

_OPTIONS = {
    "service_tier": "service_tier", "serviceTier": "service_tier", "speed": "speed",
    "inference_geo": "inference_geo", "inferenceGeo": "inference_geo",
}  # fmt: skip
_LEFT_OPEN = frozenset({"auto", "unspecified"})
Options: TypeAlias = "tuple[tuple[str, str], ...]"
PLAIN = frozenset(
    {
        "model", "messages", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p",
        "top_k", "stream", "stream_options", "stop", "stop_sequences", "n", "seed", "user", "metadata", "system",
        "input", "instructions", "presence_penalty", "frequency_penalty", "response_format", "text", "contents",
        "systemInstruction", "system_instruction", "logprobs", "top_logprobs", "logit_bias", "store",
        "encoding_format", "dimensions", "reasoning_effort", "reasoning", "thinking", "safetySettings",
    }
)  # fmt: skip
"""Keys of a body that change neither its price nor its bound beyond what `Attempt` says already."""


def is_plain(attempt: Attempt) -> bool:
    """Whether bytes, output bound and choices are all there is to know of an attempt."""
    return (
        not attempt.unseen
        and PLAIN.issuperset(attempt.body)
        and SEARCHES not in attempt.model
        and attempt.call.operation != "passthrough"
    )


def plain_bound(attempt: Attempt, price: ModelPrice) -> Bound:
    """The bound of a plain attempt."""
    tokens, choices = attempt.input_bytes + TEMPLATE_TOKENS, attempt.choices or 1
    if price.rates.cache_write_1h is not None and asks_long_cache(attempt.body):
        return Bound(tokens, choices, 0, True)
    return Bound(tokens, choices)


def seen_whole(attempt: Attempt) -> bool:
    """Whether all that the model will read is in the body's bytes, or is a picture.

    Gemini counts sound by its length (32 tokens a second) and takes formats that say a second of silence in a byte.
    """
    if attempt.dialect == "gemini" and "audio" in attempt.unseen:
        return False
    if "audio_data" in attempt.unseen and not all_dense(attempt.body):
        return False
    return _IN_BYTES.issuperset(attempt.unseen)


def bound_of(attempt: Attempt, price: ModelPrice, offered: Offered) -> tuple[Bound, bool]:
    """The bound of this attempt's body, and whether it holds: False for unseen content at a model whose
    context window is not known. `offered` are the tools that run at the provider."""
    body = attempt.body
    unseen = attempt.unseen
    if attempt.call.operation == "passthrough":
        return Bound(0), True
    tokens = attempt.input_bytes + TEMPLATE_TOKENS
    tools = body.get("tools")
    if tools:
        tokens += _TOOLS_TOKENS
        if type(tools) is list:
            tokens += _TYPED_TOOL_TOKENS * sum(
                type(tool) is dict and tool.get("type") not in (None, "function", "custom") for tool in tools
            )
    media, bounded = asks_sound(body), True
    if unseen:
        media = media or not _MEDIA.isdisjoint(unseen)
        if not _PICTURES.isdisjoint(unseen):
            each = _IMAGE_TOKENS_BY_TILE if attempt.model.startswith("gpt-4o-mini") else _IMAGE_TOKENS
            tokens += max(1, _pictures(body)) * each
        if not seen_whole(attempt):
            bounded = price.context is not None
            tokens = max(tokens, price.context or 0) * (1 + offered.rounds)
    choices = attempt.choices
    best_of, prompts = body.get("best_of"), body.get("prompt")
    if type(best_of) is int:
        choices = max(choices, best_of)
    if type(prompts) is list and not all(type(entry) is int for entry in prompts):
        choices *= len(prompts)  # legacy completions answer each prompt; a list of numbers is one
    bound = Bound(
        tokens,
        max(1, choices),
        offered.searches,
        price.rates.cache_write_1h is not None and asks_long_cache(body),
        media,
        offered.fees,
        # https://platform.openai.com/docs/guides/predicted-outputs: what was predicted and not used is billed as output.
        attempt.input_bytes if body.get("prediction") is not None else 0,
    )
    return bound, bounded


def price_options(body: Tree, usual: Options = ()) -> Options:
    """Settings of a body that change its price, as the list names them; `usual` are those that hold at its provider
    where the body leaves them out, or leaves them to it (`auto`)."""
    if _OPTIONS.keys().isdisjoint(body):
        return usual
    asked = clean_options((key, body[name]) for name, key in _OPTIONS.items() if body.get(name) is not None)
    if not usual:
        return asked
    return tuple({**dict(usual), **{key: value for key, value in asked if value not in _LEFT_OPEN}}.items())


def clean_options(given: Any) -> Options:
    """Settings, as a body or a report spells them, in the list's words."""
    return tuple([(key, str(value)[:40].lower().removeprefix("service_tier_")) for key, value in given])


def asks_sound(body: Tree) -> bool:
    """Whether the answer may be spoken, or anything else but text."""
    if "audio" in body or body.get("modalities"):
        return True
    for name in ("generationConfig", "generation_config"):
        config = body.get(name)
        if type(config) is dict and not _SOUND.isdisjoint(config):
            return True
    return False


_SOUND = frozenset({"responseModalities", "response_modalities", "speechConfig", "speech_config"})


def asks_long_cache(node: Any) -> bool:
    """Whether some `cache_control` asks for the hour-long cache (Anthropic: twice the price of input)."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            control = item.get("cache_control")
            if type(control) is dict and control.get("ttl") not in (None, "5m"):
                return True
            waiting += [value for value in item.values() if type(value) in (dict, list)]
        else:
            waiting += [value for value in item if type(value) in (dict, list)]
    return False


def _pictures(node: Any) -> int:
    """How many pictures a body holds or refers to, in any dialect's spelling."""
    found, waiting = 0, [node]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            kind = item.get("type")  # whatever JSON can say: only the provider judges it
            named = type(kind) is str and kind in _PICTURE_TYPES
            found += named or "inlineData" in item or "inline_data" in item
            waiting += [value for value in item.values() if type(value) in (dict, list)]
        else:
            waiting += [value for value in item if type(value) in (dict, list)]
    return found
