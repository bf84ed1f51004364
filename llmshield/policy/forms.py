"""Patterns in a policy that a whole value has to match: checked when the policy is read, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import re2
from pydantic import AfterValidator


def _checked(pattern: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError("is no re2 expression (re2 knows no look-around, no back-references)") from error
    return pattern


Form = Annotated[str, AfterValidator(_checked)]
"""An re2 expression in the settings of a plugin."""


def matcher(form: str | None) -> Callable[[str], bool] | None:
    """What says whether a whole text has a form, line breaks included; None if there is none."""
    if form is None:
        return None
    fullmatch = re2.compile(f"(?s){form}").fullmatch

    def matches(value: str) -> bool:
        # Lone surrogates have no UTF-8.
        return fullmatch(value if value.isascii() else value.encode("utf-8", "replace").decode()) is not None

    return matches
