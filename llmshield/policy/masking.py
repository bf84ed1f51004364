"""What a finding may show of a policy: values in short, source lines with their secrets masked.

Rule: when in doubt it is a secret. A masked line still shows its keys and its shape; the value is gone whole,
so that not even its first or last characters are left.
"""

from __future__ import annotations

import re
from typing import Any

from llmshield.redact import redact

MASK = "***"
_SHOWN = 60
"""Characters of a value in a message; a policy's own words are shorter, a pasted blob is not."""
_LONGEST = 2_000
"""A longer value is not shown at all: masking looks at the whole of it."""

REFERENCE = re.compile(r"^[a-z][a-z0-9+.-]*://\S+$")
"""A value that points at a secret and is none: `env://OPENAI_API_KEY`."""

SECRET_KEY = re.compile(
    r"(?i)(^|[_-])(api_?key|key|keys|secret|password|passwd|token|credentials?|authorization)$"
)
"""Names of keys whose values are secrets, unless they are references."""

# Known beginnings (providers, forges, clouds, JWT, Fernet), then any run of 20 and more characters that no word
# of a policy has: letters and digits mixed, as in `AbCd1234...`. `claude-sonnet-4-5-20250929` has hyphens every
# few characters and stays readable, since the run excludes them.
_TOKENS = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|ghp|gho|ghs|glpat|xox[abprs]|AKIA|ASIA|AIza|gAAAA|eyJ)[-_A-Za-z0-9+/=.]{8,}"
    r"|\bsha256:[0-9A-Fa-f]+"
    r"|\b(?=[A-Za-z_+/=]*[0-9])(?=[0-9_+/=]*[A-Za-z])[A-Za-z0-9_+/=]{20,}"
    r"|\b[0-9a-fA-F]{24,}\b"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
)
_USERINFO = re.compile(r"://[^\s/@'\"]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_ASSIGNED = re.compile(
    r"""(?ix) (?P<key> ["']? [\w-]* (?:api_?key|secret|password|passwd|token|credentials?|authorization) ["']? \s*:\s*+ )
        (?! ["']? [a-z][a-z0-9+.-]*:// ) (?! \s*$ ) (?! [|>][+-]?[0-9]? \s*$ ) (?P<value> .+ )"""
)
_BLOCK_OF_SECRET = re.compile(
    r"(?i)(key|secret|password|passwd|token|credentials?|authorization)[\"']?\s*:\s*[|>]?[+-]?[0-9]?\s*$"
)


def found(value: Any) -> str:
    """A value in a few words for "found ...": its kind, and its text where that is short and no secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the word {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {_clip(getattr(value, 'text', None) or repr(value))}"
    if isinstance(value, str):
        if len(value) > _LONGEST:
            return f"a text of {len(value)} characters"
        return repr(_clip(mask_tokens(value)))
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def mask_tokens(text: str) -> str:
    """`text` with everything masked that looks like a key, wherever it stands."""
    text = _USERINFO.sub(f"://{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return redact(_TOKENS.sub(_mask_token, text))


def mask_line(line: str, spans: tuple[tuple[int, int], ...] = (), previous: str = "") -> str:
    """A source line that may be shown: `spans` (start, end in characters) are known secrets.

    Where YAML could not be read the spans are unknown, so the keys' names decide: the rest of the line after
    `api_key:` goes, and all of a line whose `previous` one opens a block of secret text.
    """
    if _BLOCK_OF_SECRET.search(previous) and ":" not in line.partition("#")[0].replace("://", ""):
        indent = len(line) - len(line.lstrip())
        return line[:indent] + MASK
    for start, end in sorted(spans, reverse=True):
        line = line[:start] + MASK + line[end:]
    if not spans:
        line = _ASSIGNED.sub(lambda match: match["key"] + MASK, line)
    return mask_tokens(line)


def is_secret_key(name: str) -> bool:
    """Whether values under this key are secrets unless they are references."""
    return SECRET_KEY.search(name) is not None


def _mask_token(match: re.Match[str]) -> str:
    return f"sha256:{MASK}" if match[0].startswith("sha256:") else MASK


def _clip(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
