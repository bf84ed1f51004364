"""A folder with a user's own plugin, and a way to judge a policy in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmshield.policy import Finding, Policy, inspect_text

PLUGIN = '''
"""Refuses competitors' names."""
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from llmshield.hookspecs import Plugin, Settings as Base
from llmshield.policy import Duration, Money, Percent, RateLimit, Size, TokenPrice


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    action: Literal["replace", "mask", "block"]
    keep_last: int = Field(0, ge=0)
    min_score: float = Field(0.5, ge=0, le=1)


class NoCompetitors(Plugin):
    class Settings(Base):
        names: list[str] = []
        entities: dict[str, Rule] = {}
        pause: Duration = 1.0
        size: Size = 1
        budget: Money | None = None
        rate: RateLimit | None = None
        share: Percent = 0.5
        price: TokenPrice | None = None
        threshold: float = 0.5
        secret: SecretStr | None = None
        timeout: int = 3

        @field_validator("names")
        @classmethod
        def _no_shouting(cls, names: list[str]) -> list[str]:
            if any(name.isupper() for name in names):
                raise ValueError("names are not shouted")
            return names

        @model_validator(mode="after")
        def _known(self):
            for kind in self.entities:
                if kind.islower():
                    raise ValueError(f"entity {kind!r} is not known; did you mean {kind.upper()!r}?")
            return self

    def pre_request(self, call):
        return None
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "no_competitors.py").write_text(PLUGIN)
    return tmp_path


Judge = Callable[[str], tuple[Policy | None, tuple[Finding, ...]]]


@pytest.fixture
def judge(folder: Path) -> Judge:
    return lambda text: inspect_text(text, "policy.yaml", folder)
