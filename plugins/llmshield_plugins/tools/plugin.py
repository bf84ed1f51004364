"""The plugin: names and arguments checked on both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from llmshield import hookspecs
from llmshield.call import Call, Channel, Reply
from llmshield.hookspecs import Plugin
from llmshield.json_pieces import NAME
from llmshield.policy.globs import compile_glob, compile_globs
from llmshield.texts import shown
from llmshield.verdicts import Block

from . import names
from .reading import leaves, uses
from .rules import Held, Rule, RuleShape, rule_at

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_LONGEST_NAME = 512
"""Characters of a tool's name that are awaited; providers allow 64 to 128."""


class Tools(Plugin):
    """Allow-list of tools; see the module's docstring."""

    class Settings(hookspecs.Settings):
        """What `tools:` may say."""

        allow: tuple[Name, ...] = Field((), description="Names that are allowed, as globs; empty: all.")
        deny: tuple[Name, ...] = Field((), description="Names that are refused, as globs.")
        arguments: Mapping[Name, Mapping[Name, RuleShape]] = Field(
            default_factory=dict, description="Rules for arguments, by tool and place."
        )
        unlisted_arguments: Literal["allow", "deny"] = Field(
            "allow", description="Arguments without a rule, of tools that have rules."
        )
        offered: Literal["deny", "flag"] = Field("deny", description="Calls that offer what is not allowed.")
        action: Literal["block", "flag"] = Field(
            "block", description="What happens to a call that breaks a rule."
        )

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._allowed = compile_globs(settings.allow, ignore_case=True) if settings.allow else None
        self._denied = compile_globs(settings.deny, ignore_case=True) if settings.deny else None
        self._rules = [
            (
                compile_glob(name, ignore_case=True),
                {tuple(place.split("/")): Rule(shape) for place, shape in rules.items()},
            )
            for name, rules in settings.arguments.items()
        ]

    def refuses(self, name: str) -> bool:
        """Whether a tool of this name is not allowed."""
        if self._denied is not None and (self._denied(name) or self._denied(names.read(name))):
            return True
        if self._allowed is not None:
            return not self._allowed(name)
        return (self._denied is not None or bool(self._rules)) and names.deceives(name)

    def rules_for(self, name: str | None) -> dict[tuple[str, ...], Rule] | None:
        """The rules of all entries that mean a tool, together; None if there are none. A later entry wins."""
        found: dict[tuple[str, ...], Rule] | None = None
        plain = None if name is None else names.read(name)
        for means, rules in self._rules:
            if name is not None and (means(name) or (plain is not None and means(plain))):
                found = {**(found or {}), **rules}
        return found

    def breaks(self, name: str | None, path: Sequence[str | int], value: str) -> str | None:
        """What is wrong with one argument of a tool; None if nothing is."""
        rules = self.rules_for(name)
        if rules is None:
            return None
        if not path or isinstance(path[0], int):
            # A program that mends broken JSON would find arguments that nobody has checked.
            return None if value.strip() in ("", "null") else "has arguments that are no JSON object"
        rule = rule_at(rules, path)
        if rule is None:
            return self._unruled(rules, path)
        return rule.breaks(value)

    def _unruled(self, rules: Mapping[tuple[str, ...], Rule], path: Sequence[str | int]) -> str | None:
        """What is wrong with a value that no rule is for."""
        for length in range(1, len(path)):
            above = rule_at(rules, path[:length])
            if above is not None:
                return above.breaks_inside()
        if path[-1] == NAME:
            return None  # of an object's names only those above forbidden values matter
        return "has no rule" if self.settings.unlisted_arguments == "deny" else None

    def pre_request(self, call: Call) -> Block | None:
        """Check the tools that the call offers and those that were called so far."""
        for use in uses(call.body):
            if self.refuses(use.name):
                refused = use.called or self.settings.offered == "deny"
                verdict = self._broken(call, use.name, use.place, "is not allowed", refused=refused)
                if verdict is not None:
                    return verdict
            elif use.arguments is not None and self._rules:
                for path, value in leaves(use.arguments):
                    wrong = self.breaks(use.name, path, value)
                    if wrong is not None:
                        verdict = self._broken(call, use.name, use.place, _told(path, wrong), refused=True)
                        if verdict is not None:
                            return verdict
        return None

    def _broken(self, call: Call, name: str, place: str, wrong: str, *, refused: bool) -> Block | None:
        refused = refused and self.settings.action == "block"
        call.report("tool_not_allowed", "block" if refused else "flag", place=place)
        return self._block(name, wrong) if refused else None

    def _block(self, name: str, wrong: str) -> Block:
        return Block(f"Blocked by policy {self.name or 'tools'!r}: tool {shown(name)!r}: {wrong}.")

    def post_response(self, call: Call, reply: Reply) -> None:
        """Hang a filter on the reply's tool calls."""
        longest = max((rule.longest for _, rules in self._rules for rule in rules.values()), default=0)
        reply.filter(lambda channel: self._filter(call, channel), hold_back=max(_LONGEST_NAME, longest))

    def _filter(self, call: Call, channel: Channel) -> Held | None:
        if channel.kind == "tool_name":
            return Held(_LONGEST_NAME, lambda name: self._named(call, channel, name))
        if channel.kind != "tool_arguments":
            return None
        rules = self.rules_for(channel.tool)
        if rules is None:
            return None
        rule = rule_at(rules, channel.path) if channel.path else None
        return Held(rule.longest if rule else 0, lambda value: self._argued(call, channel, value))

    def _named(self, call: Call, channel: Channel, name: str) -> Block | None:
        if not self.refuses(name):
            return None
        return self._broken(call, name, str(channel), "is not allowed", refused=True)

    def _argued(self, call: Call, channel: Channel, value: str) -> Block | None:
        wrong = self.breaks(channel.tool, channel.path, value)
        if wrong is None:
            return None
        return self._broken(call, channel.tool or "", str(channel), _told(channel.path, wrong), refused=True)


def _told(path: Sequence[str | int], wrong: str) -> str:
    """What is wrong with a value and where; no place for arguments that have none."""
    return f"{'/'.join(str(shown(step)) for step in path)!r} {wrong}" if path else wrong
