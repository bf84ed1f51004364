"""What credentials look like: one set for the `pii` guard, for other guards and for scrubbing of log lines.

Imports nothing of this project, so that the lowest room (`redact`) may use it. All expressions are google-re2:
linear in the text, whatever it holds. `find_secrets` says where; what becomes of a secret is the caller's matter.

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

Found = tuple[int, int, str]
"""start, end (code points of the text) and kind."""

KINDS = ("API_KEY", "JWT", "PRIVATE_KEY", "URL_WITH_CREDENTIALS")

MAX_TOKEN = 4096
"""Characters of the longest token that is reported in one piece; a private key may reach `MAX_PEM`."""

MAX_PEM = 16_384

# Tokens that their issuer made recognisable. The name is for readers of this file and for tests; the shapes are
# those that the issuers document or that their own keys show.
TOKEN_SHAPES: dict[str, str] = {
    "llmshield": r"llmsk_[0-9A-Za-z]{40,}",
    "openai": r"sk-(?:proj|svcacct|admin|None|service)-[A-Za-z0-9_-]{20,}",
    "openai_legacy": r"sk-[A-Za-z0-9]{32,}",
    "anthropic": r"sk-ant-[A-Za-z0-9]{2,12}-[A-Za-z0-9_-]{20,}",
    "openrouter": r"sk-or-(?:v1-)?[0-9a-f]{40,}",
    "langfuse": r"(?:sk|pk)-lf-[0-9a-f]{8}-[0-9a-f-]{20,}",
    "google_api": r"AIza[0-9A-Za-z_-]{35}",
    "google_oauth": r"ya29\.[0-9A-Za-z_-]{20,}",
    "google_client_secret": r"GOCSPX-[0-9A-Za-z_-]{28}",
    "aws_access_key": r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}",
    "aws_bedrock": r"ABSK[A-Za-z0-9+/]{100,}={0,2}",
    "github": r"gh[opsur]_[A-Za-z0-9]{36,}",
    "github_fine_grained": r"github_pat_[A-Za-z0-9_]{22,}",
    "gitlab": r"gl(?:pat|ptt|dt|rt|rtr|cbt|ft|soat|agent|imt|oas|ffct)-[0-9A-Za-z_.-]{20,}",
    "slack": r"xox[abeoprs](?:\.xox[bp])?-[0-9A-Za-z-]{10,}",
    "slack_app": r"xapp-[0-9]-[0-9A-Za-z-]{10,}",
    "slack_webhook": r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{40,}",
    "discord_webhook": r"discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_-]{60,}",
    "stripe": r"(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,}",
    "stripe_webhook": r"whsec_[A-Za-z0-9+/=]{24,}",
    "huggingface": r"(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "npm": r"npm_[A-Za-z0-9]{36}",
    "pypi": r"pypi-[A-Za-z0-9_-]{50,}",
    "rubygems": r"rubygems_[0-9a-f]{48}",
    "crates_io": r"cio[A-Za-z0-9]{32}",
    "clojars": r"CLOJARS_[a-z0-9]{60}",
    "sendgrid": r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}",
    "twilio": r"(?:AC|SK)[0-9a-f]{32}",
    "mailgun": r"key-[0-9a-f]{32}",
    "brevo": r"xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}",
    "azure_key": r"(?:AccountKey|SharedAccessKey|SharedSecretKey)=[A-Za-z0-9+/]{40,}={0,2}",
    "azure_sas": r"[?&]sig=[A-Za-z0-9%+/]{40,}",
    "digitalocean": r"do[opr]_v1_[0-9a-f]{64}",
    "databricks": r"dapi[0-9a-f]{32}(?:-[0-9])?",
    "shopify": r"shp(?:at|ca|pa|ss|tka)_[0-9a-fA-F]{32}",
    "square": r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{22,43}",
    "braintree": r"access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}",
    "atlassian": r"AT(?:ATT3|BB|CTT3)[A-Za-z0-9_=-]{24,}",
    "linear": r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}",
    "notion": r"(?:ntn_|secret_)[A-Za-z0-9]{40,}",
    "figma": r"fig(?:d|or|our)_[A-Za-z0-9_-]{20,}",
    "airtable": r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}",
    "postman": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
    "new_relic": r"NR(?:AK|AA|JS|II|RA)-[A-Za-z0-9]{19,}",
    "grafana": r"gl(?:sa|c)_[A-Za-z0-9+/=_]{32,}",
    "sentry": r"sntry[su]_[A-Za-z0-9_+/=]{40,}",
    "dynatrace": r"dt0c01\.[A-Z0-9]{24}\.[A-Z0-9]{64}",
    "doppler": r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,}",
    "hashicorp_vault": r"hv[bsr]\.[A-Za-z0-9_-]{24,}",
    "pulumi": r"pul-[0-9a-f]{40}",
    "flyio": r"(?:fo1_[A-Za-z0-9_-]{43}|fm[12][ar]?_[A-Za-z0-9+/=]{100,})",
    "planetscale": r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,}",
    "supabase": r"sb(?:p|_secret|_publishable)_[A-Za-z0-9_-]{20,}",
    "tailscale": r"tskey-[a-z]+-[0-9A-Za-z]+-?[0-9A-Za-z]{12,}",
    "docker": r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
    "jfrog": r"AKCp[0-9A-Za-z]{60,}",
    "sonarqube": r"sq[apu]_[0-9a-f]{40}",
    "easypost": r"EZ[AT]K[A-Za-z0-9]{54}",
    "cloudflare_ca": r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}",
    "age": r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}",
    "groq": r"gsk_[A-Za-z0-9]{40,}",
    "xai": r"xai-[A-Za-z0-9]{60,}",
    "replicate": r"r8_[A-Za-z0-9]{37,}",
    "perplexity": r"pplx-[A-Za-z0-9]{40,}",
    "fireworks": r"fw_[A-Za-z0-9]{22,}",
    "nvidia": r"nvapi-[A-Za-z0-9_-]{50,}",
    "pinecone": r"pcsk_[A-Za-z0-9_]{40,}",
    "langsmith": r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}",
    "facebook": r"EAA[A-Za-z0-9]{60,}",
    "contentful": r"CFPAT-[A-Za-z0-9_-]{43}",
    "typeform": r"tfp_[A-Za-z0-9_.=-]{40,}",
    "readme": r"rdme_[a-z0-9]{70}",
    "frameio": r"fio-u-[A-Za-z0-9_=-]{64}",
    "mapbox": r"(?:sk|pk)\.eyJ[A-Za-z0-9_-]{40,}\.[A-Za-z0-9_-]{20,}",
    "fernet": r"gAAAAA[A-Za-z0-9_-]{90,}={0,2}",
}

# Shapes that begin like any word: expression, and the part of it that is rare. Without the second, every character of
# a long base64 text would begin a match, and the automaton a new state (23 us a character).
LOOSE_SHAPES: dict[str, tuple[str, str]] = {
    "discord_bot": (
        r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",
        r"\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]",
    ),
    "telegram_bot": (r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34}", r"[0-9]:AA[A-Za-z0-9_-]"),
    "mailchimp": (r"[0-9a-f]{32}-us[0-9]{1,2}", r"[0-9a-f]-us[0-9]"),
    "azure_client_secret": (r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}", r"[0-9]Q~"),
    "terraform_cloud": (r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,}", r"\.atlasv1\."),
}

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


class Rule(NamedTuple):
    """One expression: `group` is the secret, `accept` judges the text of group `judged`, `trigger` occurs wherever
    the expression matches."""

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
    Rule("API_KEY", rf"\b({_TOKENS})", 1, 1, lambda value: not _drawn(value), f"(?:{_TOKENS})"),
    *(
        Rule("API_KEY", rf"\b({regex})", 1, 1, lambda value: not _drawn(value), trigger)
        for regex, trigger in LOOSE_SHAPES.values()
    ),
    Rule("JWT", rf"\b({_JWT})", 1, 1, _always, _JWT),
    Rule("PRIVATE_KEY", _PEM_BEGIN, 0, 0, _always, _PEM_BEGIN),
    Rule(
        "URL_WITH_CREDENTIALS",
        _URL,
        0,
        1,
        lambda value: not _is_placeholder(value),
        r"://[^\s/:@\"'<>\\]*:[^\s/@\"'<>\\]+@",
    ),
    Rule(
        "API_KEY",
        _ASSIGNMENT,
        1,
        1,
        lambda value: _reads_like_a_secret(value),
        _ASSIGNMENT.replace(r"\b", ""),
    ),
    Rule("API_KEY", _BEARER, 1, 1, lambda value: _mixed(value), _BEARER.replace(r"\b", "")),
    Rule("API_KEY", _HEADER, 1, 1, lambda value: not _is_placeholder(value), _HEADER.replace(r"\b", "")),
)


@cache
def triggers() -> tuple[str, ...]:
    """Expressions of which at least one matches wherever `find_secrets` finds anything; for a set of one's own."""
    return tuple(rule.trigger for rule in _RULES)


def find_secrets(text: str) -> list[Found]:
    """Every credential in `text`, in order, without overlap.

    Text may hold anything, lone surrogates included. Spans are code points.
    """
    data, ascii_only = _encode(text)
    hits = _gate().Match(data)
    if not hits:
        return []
    found: list[tuple[int, int, str]] = []
    for number in hits:
        rule = _RULES[number]
        for match in _compiled(number).finditer(data):
            start, end = match.span(rule.group)
            first, last = match.span(rule.judged)
            if not rule.accept(data[first:last].decode("utf-8", "replace")):
                continue
            if rule.kind == "URL_WITH_CREDENTIALS":
                while data[end - 1 : end] in (b")", b".", b",", b";", b":", b"!", b"?", b"*"):
                    end -= 1
            if rule.kind == "PRIVATE_KEY":
                end = _pem_end(data, start, end)
            found.append((start, end, rule.kind))
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
    return re2.compile(_RULES[number].regex)


@cache
def _gate() -> Any:
    gate = re2.Set.SearchSet()
    for rule in _RULES:
        gate.Add(rule.trigger)
    gate.Compile()
    return gate


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


def _reads_like_a_secret(value: str) -> bool:
    """Whether an announced value is a secret rather than a word, a variable, code or a placeholder."""
    if _is_placeholder(value) or _entropy(value) < 2.2:
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
    return mixed and len(value) >= 20 and _entropy(value) >= 3.5


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
                           "process.env", "os.environ", "env.", "env(", "getenv", "secrets.", "vault:", "env://", "file://"))  # fmt: skip


def _mixed(value: str) -> bool:
    """Digits and letters, or both cases: not the word after "bearer"."""
    return any(c.isdigit() for c in value) or (
        len(value) >= 20 and value != value.lower() and value[1:] != value[1:].lower()
    )


def _entropy(value: str) -> float:
    """Shannon entropy in bits for each character."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in (value.count(c) for c in set(value)))


def _without_overlap(found: list[Found]) -> list[Found]:
    """Overlapping finds become one, of the longer one's kind: no half of a secret is left standing."""
    found.sort(key=lambda item: (item[0], -item[1]))
    kept: list[Found] = []
    for start, end, kind in found:
        if kept and start < kept[-1][1]:
            first, last, before = kept[-1]
            kept[-1] = (first, max(last, end), kind if end - start > last - first else before)
        else:
            kept.append((start, end, kind))
    return kept


def _in_code_points(data: bytes, found: list[Found]) -> Iterator[Found]:
    """The same spans counted in code points; one pass over `data`."""
    byte = point = 0
    for start, end, kind in found:
        first = point + len(data[byte:start].decode())
        last = first + len(data[start:end].decode())
        byte, point = end, last
        yield first, last, kind
