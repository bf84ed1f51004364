"""What credentials look like: one set for the `pii` guard, for other guards and for scrubbing of log lines.

Imports nothing of this project but its tables, so that the lowest room (`redact`) may use it. All expressions are google-re2:
linear in the text, whatever it holds. `find_secrets` says where, `find_credentials` also by which rule and with the
rules that go by an issuer's name alone; what becomes of a secret is the caller's matter. Tables: `secrets_shapes.py`.

Rule 1: a shape that a provider publishes (a prefix, a length, an alphabet) is enough on its own.
Rule 2: a value without a shape (`password=...`) counts only where a name announces it and it does not read like
a word, a variable or a placeholder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import re2

from llmshield.secrets_shapes import GROUPS, LOOSE_SHAPES, SERVICES, TOKEN_SHAPES

__all__ = [
    "BREAKS", "GROUPS", "KINDS", "LOOSE_SHAPES", "MAX_PEM", "MAX_TOKEN", "OPEN", "RULES", "SECRET_NAME", "TOKEN_SHAPES", "Credential",
    "credential_gate", "entropy", "find_credentials", "find_secrets", "reads_like_a_secret", "triggers",
]  # fmt: skip

Found = tuple[int, int, str]
"""start, end (code points of the text) and kind."""

KINDS = ("API_KEY", "JWT", "PRIVATE_KEY", "URL_WITH_CREDENTIALS")

MAX_TOKEN = 4096
"""Characters of the longest token that is reported in one piece; a private key may reach `MAX_PEM`."""

MAX_PEM = 16_384

_WORD = 64
"""Bytes of a refused value that is searched for another announcement."""

# Three parts (RFC 7515) or five (RFC 7516), the header being the base64url of `{"`; a token without a signature
# (`alg: none`) ends in a dot.
_JWT = r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}"

_PEM_BEGIN = r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_PEM_END = "-----END"

# No `{m,n}` with a large n here: re2 unrolls them. scheme://user:password@host, and no further than a client would read. `[^\s/...]` keeps the user out of paths.
_URL = (
    r"[a-zA-Z][a-zA-Z0-9+.-]{1,30}://[^\s/:@\"'<>\\]*:([^\s/@\"'<>\\]+)@"
    r"[A-Za-z0-9.\[\]:%_-]+(?:[/?#][^\s\"'<>\\`]*)?"
)

_NAME = (
    r"(?i:pass(?:word|wd|phrase|code)|(?:\b|_)pass|pwd|secrets?|token|api[ _.-]?key|apikey|access[ _.-]?key|auth[ _.-]?key|"
    r"account[ _.-]?key|private[ _.-]?key|encryption[ _.-]?key|signing[ _.-]?key|client[ _.-]?secret|credentials?)"
)
# `DB_PASSWORD=...`, `"apiKey": "..."`, `secret => '...'`, `my token is ...`; the value is the group.
_ASSIGNMENT = (
    _NAME
    + r"(?:[_-][A-Za-z0-9_-]{0,24}|[A-Z0-9][A-Za-z0-9]{0,24})?[\"'`)\]]{0,2}\s{0,3}(?::=|=>|==?|[:：]|(?i:\sis\s(?:now\s)?))\s{0,3}"
    r"[\"'`]{0,3}([^\s\"'`<>,;]{6,})"
)
_BEARER = r"(?i:\bbearer|\bauthorization[\"']?\s?[:=]\s?[\"']?(?:basic|token|digest))\s{1,3}([A-Za-z0-9._~+/=-]{12,})"
_HEADER = r"(?i:\bx-(?:api|auth|access|goog-api)-(?:key|token))[\"']?\s{0,2}[:=]\s{0,2}[\"']?([A-Za-z0-9._~+/=-]{12,})"


# `<add key="Password" value="...">`
_XML = _NAME + r"[A-Za-z0-9]{0,24}[\"']\s{1,3}(?i:value)\s?=\s?[\"']([^\s\"'`<>,;]{6,})"
# `curl -u name:password`
_COMMAND = r"(?:\A|[\s\"'<>])(?:-u|--user)[ =]{1,2}[\"']?([^\s\"'`<>:/]+:([^\s\"'`<>,;]{6,}))"
# The issuer's name, up to 20 characters of a variable's name, an operator, the value.
_SERVICE = (
    r"(?i:"
    + "|".join(SERVICES)
    + r")[A-Za-z0-9_.-]{0,20}[\"'`]?[ \t]{0,2}(?::=|=>|\?=|\|\||==?|[:>,])\s{0,2}[\"'`=]{0,3}"
    r"([A-Za-z0-9_=.~%+-]{16,})"
)


_OPERATOR = r"(?::=|=>|==?|[:：]|(?i:\sis\s(?:now\s)?))"
OPEN = (
    r"(?:"
    + _NAME
    + r"(?:[_-][A-Za-z0-9_-]{0,24}|[A-Z0-9][A-Za-z0-9]{0,24})?[\"'`)\]]{0,2}\s{0,3}(?:"
    + _OPERATOR
    + r"\s{0,3}[\"'`]{0,3})?"
    r"|(?i:api|access|auth|account|private|encryption|signing|client)[ ]"
    r"|(?i:bearer)\s{1,3}"
    r"|(?i:authorization)[\"']?\s?(?:[:=]\s?[\"']?(?:(?i:basic|token|digest)\s{1,3})?)?"
    r"|(?i:x-(?:api|auth|access|goog-api)-(?:key|token))[\"']?\s{0,2}(?:[:=]\s{0,2}[\"']?)?"
    r"|-----BEGIN (?:[A-Z0-9]{1,16} ){0,5}"
    r"|" + _NAME + r"[A-Za-z0-9]{0,24}[\"']\s{0,3}(?:(?i:value)\s?(?:=\s?[\"']?)?)?"
    r"|(?:-u|--user)[ =]{1,2}[\"']?"
    r"|(?i:" + "|".join(SERVICES) + r")[A-Za-z0-9_.-]{0,20}[\"'`]?[ \t]{0,2}"
    r"(?:(?::=|=>|\?=|\|\||==?|[:>,])\s{0,2}[\"'`=]{0,3})?"
    r")\z"
)
"""What a text ends in, behind a blank, a quote or a bracket, where a match of any rule but that of private keys may
have begun and reach over it. Who reads a stream cuts there only if this does not match what came before."""

BREAKS = frozenset(" \t\n\f\r\"'<>")
"""No match reaches over one of these, unless `OPEN` matches the text up to and with it, or it is inside a private key."""


class Rule(NamedTuple):
    """One expression, `name` of which is what policies and records call it: `group` is the secret, `accept` judges the text of group `judged`, `trigger` occurs wherever
    the expression matches."""

    name: str
    kind: str
    regex: str
    group: int
    judged: int
    accept: Callable[[str], bool]
    trigger: str


def _drawn(value: str) -> bool:
    """`sk-xxxxxxxx...`: a shape drawn in documentation, not a key."""
    return len(set(value[-16:])) <= 2


def _always(value: str) -> bool:
    return True


_TOKENS = "|".join(TOKEN_SHAPES.values())
_RULES = (
    Rule("token", "API_KEY", rf"\b({_TOKENS})", 1, 1, lambda value: not _drawn(value), f"(?:{_TOKENS})"),
    *(
        Rule(name, "API_KEY", rf"\b({regex})", 1, 1, lambda value: not _drawn(value), trigger)
        for name, (regex, trigger) in LOOSE_SHAPES.items()
    ),
    Rule("jwt", "JWT", rf"\b({_JWT})", 1, 1, _always, _JWT),
    Rule("private_key", "PRIVATE_KEY", _PEM_BEGIN, 0, 0, _always, _PEM_BEGIN),
    Rule(
        "url_with_credentials",
        "URL_WITH_CREDENTIALS",
        _URL,
        0,
        1,
        lambda value: not _is_placeholder(value),
        r"://[^\s/:@\"'<>\\]*:[^\s/@\"'<>\\]+@",
    ),
    Rule(
        "assignment",
        "API_KEY",
        _ASSIGNMENT,
        1,
        1,
        lambda value: reads_like_a_secret(value),
        _ASSIGNMENT.replace(r"\b", ""),
    ),
    Rule("authorization", "API_KEY", _BEARER, 1, 1, lambda value: _mixed(value), _BEARER.replace(r"\b", "")),
    Rule(
        "key_header",
        "API_KEY",
        _HEADER,
        1,
        1,
        lambda value: not _is_placeholder(value),
        _HEADER.replace(r"\b", ""),
    ),
)
_MORE_RULES = (
    Rule(
        "xml_value", "API_KEY", _XML, 1, 1, lambda value: reads_like_a_secret(value), _XML.replace(r"\b", "")
    ),
    Rule("command_line", "API_KEY", _COMMAND, 1, 2, lambda value: reads_like_a_secret(value), _COMMAND),
    Rule("service", "API_KEY", _SERVICE, 1, 1, lambda value: _random_enough(value), _SERVICE),
)
"""Rules that an issuer's name or a command announces: for guards that look for credentials alone."""

_ALL_RULES = _RULES + _MORE_RULES

RULES = frozenset(TOKEN_SHAPES) | {rule.name for rule in _ALL_RULES} - {"token"}
"""The names of all rules."""

SECRET_NAME = _NAME + r"(?:[_-][A-Za-z0-9_-]{0,24}|[A-Z0-9][A-Za-z0-9]{0,24})?$"
"""What a field is called whose whole value is announced as a secret; google-re2."""


class Credential(NamedTuple):
    """Where a credential stands (code points), what it is, and by which rule it was found."""

    start: int
    end: int
    kind: str
    rule: str


@cache
def triggers() -> tuple[str, ...]:
    """Expressions of which at least one matches wherever `find_secrets` finds anything; for a set of one's own."""
    return tuple(rule.trigger for rule in _RULES)


def find_secrets(text: str) -> list[Found]:
    """Every credential in `text`, in order, without overlap.

    Text may hold anything, lone surrogates included. Spans are code points.
    """
    return [(found.start, found.end, found.kind) for found in _find(text, _gate(), _RULES)]


Keep = Callable[[str, str], bool]
"""Whether a find counts: the rule's name, the value."""


def find_credentials(text: str, keep: Keep | None = None) -> list[Credential]:
    """As `find_secrets`, by all rules, and which one it was. What `keep` refuses hides nothing that it covers."""
    return _find(text, credential_gate(), _ALL_RULES, keep)


def _find(text: str, gate: Any, rules: tuple[Rule, ...], keep: Keep | None = None) -> list[Credential]:
    data, ascii_only = _encode(text)
    hits = gate.Match(data)
    if not hits:
        return []
    found: list[Credential] = []
    for number in sorted(hits):
        rule = rules[number]
        search, position = _compiled(number).search, 0
        while (match := search(data, position)) is not None:
            start, end = match.span(rule.group)
            first, last = match.span(rule.judged)
            position = max(end, match.start() + 1)
            if not rule.accept(data[first:last].decode("utf-8", "replace")):
                if start > match.start() and end - start < _WORD:
                    position = start  # `password: password: hunter2`: what was no value may announce one
                continue
            if rule.kind == "URL_WITH_CREDENTIALS":
                while data[end - 1 : end] in (b")", b".", b",", b";", b":", b"!", b"?", b"*"):
                    end -= 1
            if rule.kind == "PRIVATE_KEY":
                end = _pem_end(data, start, end)
            name = rule.name if rule.name != "token" else _issuer(data[start:end])
            if keep is None or keep(name, data[start:end].decode("utf-8", "replace")):
                found.append(Credential(start, end, rule.kind, name))
    found = _without_overlap(found)
    return found if ascii_only else list(_in_code_points(data, found))


def _encode(text: str) -> tuple[bytes, bool]:
    """UTF-8 for re2, and whether bytes are code points; a lone surrogate becomes U+FFFD, one for one."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text).encode()
    return data, len(data) == len(text)


@cache
def _compiled(number: int) -> Any:
    return re2.compile(_ALL_RULES[number].regex)


@cache
def _gate() -> Any:
    return _set_of(_RULES)


@cache
def credential_gate() -> Any:
    """A set that matches (`gate.Match(utf8)`) wherever `find_credentials` finds anything: one pass over the text."""
    return _set_of(_ALL_RULES)


def _set_of(rules: tuple[Rule, ...]) -> Any:
    options = re2.Options()
    options.max_mem = 32 << 20
    gate = re2.Set.SearchSet(options)
    for rule in rules:
        gate.Add(rule.trigger)
    gate.Compile()
    return gate


@cache
def _issuers() -> tuple[Any, tuple[str, ...]]:
    gate = re2.Set.FullMatchSet()
    for regex in TOKEN_SHAPES.values():
        gate.Add(regex)
    gate.Compile()
    return gate, tuple(TOKEN_SHAPES)


def _issuer(token: bytes) -> str:
    """Whose shape a token has; where two would fit, the first in the table."""
    gate, names = _issuers()
    hits = gate.Match(token)
    return names[min(hits)] if hits else "assignment"


def _pem_end(data: bytes, start: int, header_end: int) -> int:
    """Where the block ends; without an END line, where the base64 ends: half a key is a key's half."""
    end = data.find(_PEM_END.encode(), header_end, start + MAX_PEM)
    if end >= 0:
        close = data.find(b"-----", end + len(_PEM_END), end + 80)
        return close + 5 if close >= 0 else min(len(data), end + 40)
    body = _pem_body().match(data, header_end, min(len(data), start + MAX_PEM))
    return header_end if body is None else int(body.end())


@cache
def _pem_body() -> Any:
    # Header lines (`Proc-Type: 4,ENCRYPTED`), then base64 in lines, real ones or escaped ones (`\n`).
    return re2.compile(
        r"(?:\s|\\[nr]|[A-Z][A-Za-z-]{2,20}: [^\n]{0,120}\n)*(?:[A-Za-z0-9+/=]{16,}(?:\s|\\[nr])*|[A-Za-z0-9+/=]+\s*\z)*"
    )


def reads_like_a_secret(value: str) -> bool:
    """Whether an announced value is a secret rather than a word, a variable, code or a placeholder."""
    if _is_placeholder(value) or entropy(value) < 2.2:
        return False
    digits = sum(c.isdigit() for c in value)
    letters = sum(c.isalpha() for c in value)
    special = len(value) - digits - letters - sum(value.count(c) for c in "._-/:()[]")
    if "(" in value or "](" in value or value.startswith(("http://", "https://", "/", "./", "self.", "os.")):
        return special > 0 and digits > 0 and "(" not in value
    if digits and letters:
        return True
    if digits and not letters:
        return len(value) >= 8 and special > 0
    if "." in value:  # a dotted name
        return False
    mixed = value != value.lower() and value != value.upper() and value[1:] != value[1:].lower()
    if special and letters:
        return len(value) >= 8 and any(c in "!$%^&*#@+~?" for c in value[:-1])
    return mixed and len(value) >= 20 and entropy(value) >= 3.5


def _is_placeholder(value: str) -> bool:
    """`${VAR}`, `{{ x }}`, `<token>`, `%s`, `***`, `your-key-here`: names for a secret, not one."""
    low = value.lower()
    if value[0] in "$%{<[*" and (
        len(value) < 3 or value[1] in "{({A" or value[-1] in "}>])*" or value[1:].isupper()
    ):
        return True
    if len(set(low)) <= 2:
        return True
    return low.startswith(("your", "my_", "my-", "example", "changeme", "change_me", "placeholder", "xxxx", "redacted",
                           "process.env", "os.environ", "env.", "env(", "getenv", "secrets.", "vault:", "env://", "file://", "enc://", "keyring://",
                           "vault://", "awssm://", "awsssm://", "awskms://", "gcpsm://", "azurekv://"))  # fmt: skip


def _random_enough(value: str) -> bool:
    """As random as a key: digits and letters, and no name, date or sentence in dashes."""
    return (
        any(c.isdigit() for c in value)
        and any(c.isalpha() for c in value)
        and entropy(value) >= 3.0
        and not _is_placeholder(value)
        and not ("." in value and all(part.isidentifier() for part in value.split(".")))  # a dotted name
    )


def _mixed(value: str) -> bool:
    """Digits and letters, or both cases: not the word after "bearer"."""
    return any(c.isdigit() for c in value) or (
        len(value) >= 20 and value != value.lower() and value[1:] != value[1:].lower()
    )


def entropy(value: str) -> float:
    """Shannon entropy in bits for each character."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in (value.count(c) for c in set(value)))


def _without_overlap(found: list[Credential]) -> list[Credential]:
    """Overlapping finds become one, of the longer one's kind: no half of a secret is left standing."""
    found.sort(key=lambda item: (item.start, -item.end))
    kept: list[Credential] = []
    for item in found:
        if kept and item.start < kept[-1].end:
            before = kept[-1]
            more = (item.end - item.start) - (before.end - before.start)
            longer = item if more > 0 or (more == 0 and before.rule == "assignment") else before
            kept[-1] = longer._replace(start=before.start, end=max(before.end, item.end))
        else:
            kept.append(item)
    return kept


def _in_code_points(data: bytes, found: list[Credential]) -> Iterator[Credential]:
    """The same spans counted in code points; one pass over `data`."""
    byte = point = 0
    for item in found:
        first = point + len(data[byte : item.start].decode())
        last = first + len(data[item.start : item.end].decode())
        byte, point = item.end, last
        yield item._replace(start=first, end=last)
