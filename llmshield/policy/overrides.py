"""`overrides:`: narrow exceptions to what plugins do, each with a reason and an end."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from llmshield.policy.masking import found
from llmshield.policy.routes import Match
from llmshield.policy.section import Line, Name, Section
from llmshield.policy.server import Mode, OnError
from llmshield.policy.units import PositiveDuration


def _end(value: Any) -> float:
    """Seconds since 1970 at which the last moment of a UTC day, or a moment with its zone, is over."""
    try:
        if isinstance(value, str) and len(value) == 10:
            day = dt.date.fromisoformat(value)
            return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp() + 86_400
        if isinstance(value, str):
            moment = dt.datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.timestamp()
    except (ValueError, OverflowError):
        pass  # the message below says what was expected
    raise PydanticCustomError(
        "date",
        "found {found}, expected a day such as 2027-01-31, or a moment with its zone",
        {"found": found(value)},
    )


End: TypeAlias = Annotated[
    float,
    BeforeValidator(_end),
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}(T.+)?$", "examples": ["2027-01-31"]}),
]


class Exemption(Section):
    """What is different for one plugin."""

    mode: Mode | None = Field(default=None, description="`enforce`, `monitor` or `disabled`.")
    on_error: OnError | None = Field(
        default=None, description="`closed` or `open`; `cost_cap` stays `closed`."
    )
    timeout: PositiveDuration | None = Field(default=None, description="Time for one hook.")


class Override(Section):
    """One exception. `until` is in seconds since 1970."""

    match: Match = Field(description="Which calls this is for.")
    plugins: dict[Name, Exemption] = Field(
        min_length=1, description="What is different, by the plugin's name."
    )
    reason: Line = Field(description="Why; it stands in the decision record.")
    until: End = Field(description="Its last day (UTC), or a moment with its zone.")

    def active(self, now: float) -> bool:
        """Whether it still holds at `now` (seconds since 1970)."""
        return now < self.until
