"""The settings of `use: transcripts`, checked when the policy is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from llmshield.errors import StoreError
from llmshield.hookspecs import Settings
from llmshield.policy.units import PositiveDuration
from llmshield.stores import FROM_ENVIRONMENT
from llmshield.transcripts.places import open_place

Source = Literal["header", "tenant"]
Kept = Literal["system", "user", "assistant", "tool", "output"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class TranscriptsSettings(Settings):
    """`use: transcripts`. Without settings: 30 days in `transcripts.db`, for whoever sends the header or belongs to a
    tenant that has agreed, where `pii` has cleaned the call.

    `store` is where transcripts are kept, `keys` where the keys of people are. `cleaned_by` are the names of plugins
    that must have done their work in a call; `roles` whose texts are kept (`output`: what the model writes).
    `max_characters` of the request and of the reply each; what is beyond is cut, and said. `queue` is how many
    conversations may wait for the store.
    """

    store: str = "sqlite:///transcripts.db"
    keys: str = ""
    ttl: PositiveDuration = Field(default=30 * 86_400.0)
    consent: tuple[Source, ...] = ("header", "tenant")
    cleaned_by: tuple[Name, ...] = ("pii",)
    roles: tuple[Kept, ...] = ("system", "user", "assistant", "tool", "output")
    max_characters: int = Field(default=65_536, ge=256, le=4_000_000)
    queue: int = Field(default=1000, ge=1, le=100_000)
    required: bool = False

    @field_validator("store", "keys")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        if value and not value.startswith(FROM_ENVIRONMENT):
            try:
                open_place(value)
            except StoreError as error:
                raise ValueError(str(error)) from None
        return value
