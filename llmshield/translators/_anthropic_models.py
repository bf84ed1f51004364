"""What Anthropic's models take: thinking, sampling and tokens changed from one to the next, and each refuses the rest
with a 400.

After https://platform.claude.com/docs/en/build-with-claude/thinking, .../effort and .../working-with-messages, and
what anthropic-python 2.11 still has a field for.
"""

from __future__ import annotations

from llmshield.call import Tree
from llmshield.conversation import Conversation, ReasoningPart, ToolCallPart
from llmshield.translators._json import note

DEFAULT_MAX_TOKENS = 8192
"""Anthropic wants a bound where the client gave none: what all models since Claude 3.5 can write."""
_OLD_MAX_TOKENS = 4096
_OLD = ("claude-3-opus", "claude-3-sonnet", "claude-3-haiku", "claude-2", "claude-instant")
_UNTHINKING = (*_OLD, "claude-3-5")
_UNFORMED = (*_UNTHINKING, "claude-3-7", "claude-opus-4-0", "claude-opus-4-2025", "claude-sonnet-4-0",
             "claude-sonnet-4-2025")  # fmt: skip
"""Models without structured outputs."""
_CLASSIC = (*_UNFORMED, "claude-opus-4-1", "claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
"""Models that think within a budget, and go on from the assistant's last words."""
_BETWEEN = ("claude-opus-4-6", "claude-sonnet-4-6")
"""Models that think by effort and take sampling parameters still; all later ones take none."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}
"""Tokens to think in for an effort given by word: the steps that Gemini's OpenAI layer takes, and beyond."""
_LEAST_BUDGET = 1024


def _is(c: Conversation, names: tuple[str, ...]) -> bool:
    return c.model.rpartition("/")[2].startswith(names)


def _by_effort(c: Conversation) -> bool:
    """Whether the model thinks as hard as it is told by a word, not within a budget."""
    return _is(c, ("claude-",)) and not _is(c, _CLASSIC)


def bound(c: Conversation) -> int:
    """`max_tokens`, with room for thoughts where the client has not said how long an answer may be."""
    if c.max_tokens is not None:
        return c.max_tokens
    if _is(c, _OLD):
        return _OLD_MAX_TOKENS
    thinking = c.thinking
    if thinking is None or thinking.off or _is(c, _UNTHINKING):
        return DEFAULT_MAX_TOKENS
    words = _BUDGETS.get(thinking.effort or "", 0)
    return DEFAULT_MAX_TOKENS + (thinking.budget if thinking.budget is not None else words)


def check(c: Conversation) -> None:
    """Note what the model has no way to do."""
    if c.output is not None and _is(c, _UNFORMED):
        note(c.missing, "output: this model has no structured outputs")
    if c.messages and c.messages[-1].speaker == "assistant" and _by_effort(c):
        note(c.missing, "messages: this model does not go on from the assistant's last words")


def think(c: Conversation, body: Tree) -> None:
    """Write what the client wishes about thinking, as far as this model and this call can have it.

    Thoughts have their tokens inside `max_tokens`, and can't be forced to end in a tool call. Within a budget they
    can't begin between a call of a tool and its result, nor behind words of the assistant either.
    """
    thinking = c.thinking
    if thinking is None:
        return
    if _is(c, _UNTHINKING):
        if not thinking.off:
            note(c.lost, "thinking: this model doesn't think")
        return
    if thinking.off:
        body["thinking"] = {"type": "disabled"}
        return
    if c.tool_choice is not None and c.tool_choice.kind in {"required", "named"}:
        note(c.lost, "thinking: Anthropic can't think where a tool call is forced")
        return
    shown = None if thinking.shown is None else "summarized" if thinking.shown else "omitted"
    if _by_effort(c):
        body["thinking"] = {"type": "adaptive"}
        if (effort := _effort(c)) is not None:
            body["output_config"] = {"effort": effort}
    elif thinking.budget is None and thinking.effort is None:
        note(c.lost, "thinking: this model wants a budget, none was given")
        return
    elif not _budget(c, body):
        return
    if shown is not None:
        body["thinking"]["display"] = shown


def _effort(c: Conversation) -> str | None:
    assert c.thinking is not None
    effort, budget = c.thinking.effort, c.thinking.budget
    if budget is not None:
        note(c.lost, "thinking: this model takes an effort by word, no budget of tokens")
    if effort is None and budget is not None:
        effort = "low" if budget <= 1024 else "medium" if budget <= 8192 else "high"
    if effort is None:
        return None
    near = effort if effort in _EFFORTS else "low" if effort == "minimal" else "medium"
    if _is(c, _BETWEEN) and near == "xhigh":
        near = "high"
    if _is(c, ("claude-sonnet-4-6",)) and near == "max":
        near = "high"
    if near != effort:
        note(c.lost, f"thinking: of efforts this model has {near!r} at the nearest")
    return near


def _budget(c: Conversation, body: Tree) -> bool:
    assert c.thinking is not None
    budget, most = c.thinking.budget, body["max_tokens"]
    if budget is None:  # half of a small bound is left to the answer
        budget = min(_BUDGETS.get(c.thinking.effort or "", _BUDGETS["medium"]), most // 2)
    elif c.thinking.effort is not None:
        note(c.lost, "thinking: this model takes a budget of tokens, no effort by word")
    if budget >= most:
        budget = most // 2
        note(c.lost, "thinking: the budget is larger than the answer may be")
    if budget < _LEAST_BUDGET:
        note(
            c.lost,
            f"thinking: Anthropic can't think in less than {_LEAST_BUDGET} tokens of this call's bound",
        )
        return False
    if _under_way(c):
        note(c.lost, "thinking: Anthropic can't begin to think in the middle of a turn")
        return False
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return True


def _under_way(c: Conversation) -> bool:
    """Whether the assistant's turn has begun, and without a thought of Anthropic's own."""
    if not c.messages or c.messages[-1].speaker not in {"assistant", "tool"}:
        return False
    turn = [part for message in c.messages if message.speaker == "assistant" for part in message.parts]
    for message in reversed(c.messages):
        if message.speaker == "assistant":
            turn = message.parts
            break
    proven = [part for part in turn if isinstance(part, ReasoningPart) and (part.signature or part.sealed)]
    if any(part.family == "anthropic" for part in proven):
        return c.messages[-1].speaker == "assistant" and not any(
            isinstance(part, ToolCallPart) for part in turn
        )
    return True


def sample(c: Conversation, body: Tree) -> None:
    """Write the sampling parameters that this model takes beside what the body says already."""
    given = {"temperature": c.temperature, "top_p": c.top_p, "top_k": c.top_k}
    if _by_effort(c) and not _is(c, _BETWEEN):
        for name, value in given.items():
            if value is not None and (name == "top_k" or value != 1):
                note(c.lost, f"{name}: this model takes none")
        return
    if given["temperature"] is not None and given["temperature"] > 1:
        given["temperature"] = 1.0
        note(c.lost, "temperature: Anthropic's scale ends at 1")
    if body.get("thinking", {}).get("type") in {"enabled", "adaptive"}:
        for name, fits in (
            ("temperature", given["temperature"] == 1), ("top_k", False), ("top_p", (given["top_p"] or 0) >= 0.95),
        ):  # fmt: skip
            if given[name] is not None and not fits:
                given[name] = None
                note(c.lost, f"{name}: Anthropic takes none beside thinking")
    elif given["temperature"] is not None and given["top_p"] is not None and not _is(c, _UNFORMED):
        given["top_p"] = None  # "`temperature` and `top_p` cannot both be specified for this model"
        note(c.lost, "top_p: this model takes it or a temperature, not both")
    body.update({name: value for name, value in given.items() if value is not None})
