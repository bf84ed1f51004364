"""Writes the reference pages of docs/ from the code: one function per page. `--check` only says which are stale.

python scripts/gen_docs.py            write them
python scripts/gen_docs.py --check    exit 1 if one is not fresh
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- made by scripts/gen_docs.py from the code: change the code, then run it -->\n"


def policy() -> str:
    """docs/policy.md: every key of a policy with type, default and meaning, and every code of a finding."""
    from llmshield.policy import CODES
    from llmshield.policy.root import PluginUse, PolicyFile
    from llmshield.policy.schema import settings_schema

    schema = settings_schema(PolicyFile)
    definitions: dict[str, Any] = schema["$defs"]
    definitions["PluginUse"] = settings_schema(PluginUse)
    parts = [
        "# The policy\n",
        "One YAML file (YAML 1.2) says what happens to every call. `policy.example.yaml` shows each key at work;\n"
        "`llmshield check FILE` reports all findings at once, `llmshield schema` prints a JSON Schema for editors.\n",
        "## How values are written\n",
        _table(("kind", "examples", "remarks"), _quantities()),
        "A key stands once in a mapping; an unknown key is an error. Tags, merge keys (`<<`), several documents and\n"
        "`${VARIABLES}` are not part of a policy. Anchors and aliases work for whole values. Keys to providers are\n"
        "references (`env://NAME`, `file://path`, `enc://...`: [keys](keys.md)), never literals.\n",
        "## Keys\n",
    ]
    for key, value in schema["properties"].items():
        parts.append(f"### `{key}`\n")
        parts.append(f"{_meaning(value, definitions)}\n")
        rows = list(_rows(value, definitions, key))
        if rows:
            parts.append(_table(("key", "value", "default", "meaning"), rows))
    parts.append("## Codes of findings\n")
    parts.append(
        "`error`: the policy is not used. `warning`: it is used, and `llmshield check` still exits with 1 unless\n"
        "`--allow-warnings` is given. Codes are stable.\n"
    )
    parts.append(_table(("code", "severity", "meaning"), ((code, *what) for code, what in CODES.items())))
    return MADE + "\n" + "\n".join(part for part in parts if part.strip())


def errors() -> str:
    """docs/errors.md: how each kind of error looks in each family of dialects, written by the dialects themselves."""
    import json
    from typing import get_args

    from llmshield.errors import PROVIDERS_FAULT, CallError, ErrorKind
    from llmshield.traffic import Dialects

    dialects = Dialects()
    families = {"OpenAI": "openai_chat", "Anthropic": "anthropic_messages", "Gemini": "gemini"}
    rows = []
    for kind in get_args(ErrorKind):
        cells = [f"`{kind}`"]
        for name in families.values():
            waits = {"rate_limited": 7.0, "no_provider": 5.0, "shutting_down": 1.0}.get(kind)
            reply = dialects[name].write_error(CallError(kind, "...", retry_after_s=waits), "id")
            error = json.loads(reply.body)["error"]
            words = [error.get("type"), error.get("code") if isinstance(error.get("code"), str) else None]
            words.append(error.get("status"))
            shown = [
                f"{header}: {reply.headers[header]}"
                for header in ("x-should-retry", "retry-after")
                if header in reply.headers
            ]
            said = " / ".join(f"`{word}`" for word in words if word)
            cells.append(f"**{reply.status}** {said}" + "".join(f"<br>`{line}`" for line in shown))
        cells.append("`allow`" if kind in PROVIDERS_FAULT else "`block`")
        rows.append(tuple(cells))
    parts = [
        "# Errors\n",
        "Errors that llmshield makes are shaped like the provider's own, so that SDKs raise the right class and do not\n"
        "retry for nothing. A message names the rule and the place (`messages[2].content`), never a text or a key.\n",
        _table(("kind", *families, "action"), rows),
        "`action` is what header (`x-llmshield-action`), metrics and record say of such a call. `block`: llmshield refused\n"
        "it, by its policy, a limit, or the state it is in (408 for a body that does not arrive, 503 while it shuts down).\n"
        "`allow` (or `redact`, `would-block`, `would-redact`): the policy let it through, and the provider failed.\n",
        "What can't be read as a request at all is answered without a body, these headers, a metric or a record, and the\n"
        "connection is closed: 400 (no HTTP, or a framing that two servers could read differently), 405 (`CONNECT`), 408 (a\n"
        "head that does not arrive), 431 (a head that is too large).\n",
        "A provider's own 4xx is passed on as it is, scrubbed of keys; where it is no JSON (a proxy's page, nothing), its status is\n"
        "told in the client's words, with the advice when to retry. A 401 or 403 only where the key was the client's\n"
        "own, else it is a `no_provider`: what is wrong with the policy's key is nothing that a client can mend. When every\n"
        "provider has failed, the first target's plain error is the one that the client gets, never the fallback's own\n"
        "rejection.\n",
        "## In the middle of a stream\n",
        "| | a guard stops the answer | the answer broke |\n|---|---|---|\n"
        '| OpenAI chat | a chunk with `finish_reason: "content_filter"`, then `[DONE]` | `data: {"error": ...}`; SDKs raise |\n'
        "| OpenAI responses | `response.failed` with code `invalid_prompt` | `event: error` |\n"
        '| Anthropic | `message_delta` with `stop_reason: "refusal"`, then `message_stop` | `event: error`; SDKs raise |\n'
        '| Gemini | a last chunk with `finishReason` and `finishMessage` | `data: {"error": ...}`; SDKs raise |\n',
        "A truncated answer is never presented as a success: a stream that breaks after its first output ends with the\n"
        "error in the right column. Before the first output another provider is asked, where the route names one.\n",
    ]
    return MADE + "\n" + "\n".join(parts)


def plugin(name: str) -> str:
    """docs/plugins/NAME.md: the module's docstring, which is its manual page, and its settings."""
    import importlib
    import inspect

    from llmshield import registry
    from llmshield.policy.schema import settings_schema

    module = importlib.import_module(f"llmshield_plugins.{name}")
    title, _, body = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    schema = settings_schema(registry.find("plugin", name).Settings)
    definitions, needed = schema.get("$defs", {}), schema.get("required", ())
    rows: list[tuple[str, str, str, str]] = []
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in needed else _default(value)
        rows += [(f"`{key}`", _words(value, definitions), default, _meaning(value, definitions))]
        rows += _rows(value, definitions, key)
    head, _, example = body.partition("\nExample:\n")
    parts = [f"# {title}\n", head.strip() + "\n"]
    if rows:
        parts += ["## Settings\n", _table(("key", "value", "default", "meaning"), rows)]
    if example:
        parts += ["## Example\n", f"```yaml\n{inspect.cleandoc(example)}\n```\n"]
    return MADE + "\n" + "\n".join(parts)


def admin_api() -> str:
    """docs/admin-api.md: what the admin port serves, from the table that serves it."""
    import json

    from llmshield.admin.description import document, problems_of
    from llmshield.admin.problems import KINDS
    from llmshield.admin.table import routes

    described = document()
    schemas = described["components"]["schemas"]
    parts = [
        "# The admin API\n",
        "What operators see and change of a running gateway, on the admin port ([`server.admin`](operations.md#admin-port)).\n"
        "`GET /openapi.json` describes it for programs (OpenAPI 3.1); this page is made of the same table.\n",
        "```console\n$ export ADMIN=http://127.0.0.1:9787 KEY=$LLMSHIELD_ADMIN_TOKEN\n```\n",
        "## Who may\n",
        "A credential comes as `Authorization: Bearer`: `LLMSHIELD_ADMIN_TOKEN` (role `admin`), a key of the policy's\n"
        "`admin.keys`, or a token of the issuer in `admin.jwt`. Each role may what those before it may:\n",
        _table(
            ("role", "may"),
            (
                ("`read`", "look at everything; nothing here shows a key or a text"),
                (
                    "`operate`",
                    "act on what runs: blocks, circuits, budgets, tests, stop the use of a provider's key",
                ),
                (
                    "`admin`",
                    "make and revoke client keys, set providers' keys and settings, take a revoked one up again",
                ),
            ),
        ),
        '```yaml\nadmin:\n  keys:\n    grafana: {key: "sha256:...", role: read}     # the hash of the whole key: openssl rand -hex 32\n'
        "  jwt: {issuer: https://login.example.com/, audience: llmshield-admin, claim: groups, roles: {platform: admin}}\n"
        "  hosts: [llmshield.internal]\n  configure: [api_key, timeout, models]\n```\n",
        "Where nothing of it is set up, loopback clients may look and change nothing: whoever else runs on the machine is\n"
        "loopback too. Thirty wrong credentials from one address (IPv6: one /64), and it gets 429 and one more try every two\n"
        "seconds; keys that were right before go on. Credentials are compared by their SHA-256, all of them, in constant time.\n",
        "Web pages have no way in: `Host` has to be an address, `localhost` or a name of the policy; `Origin` and\n"
        "`Sec-Fetch-Site` must not tell of another site; what changes something is `application/json`, also where it has no\n"
        "body; there are no cookies and no CORS. Every answer forbids keeping, framing and running it.\n",
        "## Changes\n",
        "Each is in the [record](evidence.md) before it is made, and again how it went: who (a keyed hash), with which role,\n"
        "from where (a keyed hash), what, and what was there before. With `audit.required: true` nothing is changed without\n"
        "its record. What is changed holds in every process of the store within a second.\n",
        "## Errors\n",
        "Problem details (RFC 9457, `application/problem+json`): `code` is for programs and stays, `detail` is for people,\n"
        "`errors` has every value that was not as expected, with its place.\n",
        _table(
            ("code", "status", "meaning"),
            ((f"`{code}`", kind.status, kind.title) for code, kind in KINDS.items()),
        ),
    ]
    order = {"GET": 0, "POST": 1, "PUT": 2, "PATCH": 3, "DELETE": 4}
    for subject in dict.fromkeys(each.subject for each in routes()):
        mine = sorted(
            (each for each in routes() if each.subject == subject),
            key=lambda each: (order[each.method], each.path),
        )
        module = sys.modules[mine[0].run.__module__]
        parts.append(f"## {subject.capitalize()}\n")
        parts.append(f"{module.__doc__}\n")
        for each in mine:
            made = described["paths"][each.path][each.method.lower()]
            role = f"role `{each.role}`" if each.role is not None else "whoever reaches the port"
            parts.append(f"### `{each.method} {each.path}`\n")
            parts.append(f"{each.summary} ({role})\n")
            if each.description:
                parts.append(f"{each.description}\n")
            rows = [
                (
                    f"`{field['name']}`",
                    field["in"],
                    _kind(field["schema"], schemas),
                    _default(field["schema"]),
                    field["description"],
                )
                for field in made.get("parameters", ())
            ]
            if each.body is not None:
                rows += [
                    (f"`{name}`", "body", *rest)
                    for name, *rest in _fields(schemas[each.body.__name__], schemas)
                ]
            if rows:
                parts.append(_table(("name", "in", "value", "default", "meaning"), rows))
            assert each.example is not None
            where = each.example.path or each.path
            query = f"?{each.example.query}" if each.example.query else ""
            words = ["curl -sS"]
            if each.method != "GET":
                words.append(f"-X {each.method}")
            words.append(f'"$ADMIN{where}{query}"')
            if each.role is not None:
                words.append('-H "Authorization: Bearer $KEY"')
            if each.method == "POST":
                words.append("-H 'Content-Type: application/json'")
            if each.example.body is not None:
                words.append(f"-d '{json.dumps(each.example.body)}'")
            parts.append(f"```console\n$ {' '.join(words)}\n```\n")
            codes = ", ".join(f"`{code}`" for code in problems_of(each) if code in {"not_found", "conflict"})
            if codes:
                parts.append(f"Besides what every request may get: {codes}.\n")
    return MADE + "\n" + "\n".join(parts)


def _fields(
    schema: dict[str, Any], schemas: dict[str, Any], path: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """One row per field of a body, those of its sections behind it."""
    for name, value in schema.get("properties", {}).items():
        default = "required" if name in schema.get("required", ()) else _default(value)
        yield f"{path}{name}", _kind(value, schemas), default, str(value.get("description", ""))
        for option in (value, *value.get("anyOf", ())):
            if "$ref" in option:
                yield from _fields(schemas[option["$ref"].rsplit("/", 1)[-1]], schemas, f"{path}{name}.")


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """The type of a field in a few words, with an example where it has one."""
    examples = schema.get("examples") or next(
        (option["examples"] for option in schema.get("anyOf", ()) if "examples" in option), None
    )
    if examples:
        return " ".join(f"`{each}`" for each in examples[:3])
    return _words(schema, schemas)


PAGES: dict[str, Callable[[], str]] = {
    "admin-api.md": admin_api,
    "policy.md": policy,
    "errors.md": errors,
    "plugins/ensemble.md": lambda: plugin("ensemble"),
    "plugins/failover.md": lambda: plugin("failover"),
    "plugins/tools.md": lambda: plugin("tools"),
}


def main(arguments: list[str]) -> int:
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stdout.write(
            f"docs/{name} {'is stale: run scripts/gen_docs.py' if '--check' in arguments else 'written'}\n"
        )
    return 1 if stale and "--check" in arguments else 0


def _quantities() -> Iterator[tuple[str, str, str]]:
    yield (
        "duration",
        "`700ms` `30s` `5m` `24h` `1d`",
        "one number and one unit; whole milliseconds, 366 days at the most",
    )
    yield "range", "`200ms..2s`", "the shorter one first"
    yield "size", "`512KiB` `10MiB` `1GiB` `10MB`", "KiB = 1,024 bytes, KB = 1,000"
    yield (
        "money per period",
        "`5 USD/day` `0.50 USD/hour` `5 USD/24h`",
        "minute, hour, day, week, month of the calendar in its time zone, or a length from 1m to 366d: any stretch of"
        " that length; kept exactly, to 10^-12 USD",
    )
    yield "time zone", "`UTC` `Europe/Berlin`", "a name of the IANA database"
    yield (
        "price",
        "`0.15` `10 USD/Mtok` `0.01 USD/call`",
        "a bare number is USD per million tokens; six decimals at the most",
    )
    yield "rate", "`20/hour` `40000 tokens/minute`", "second, minute, hour, day"
    yield "percentage", "`50%`", ""
    yield "address", "`127.0.0.1:8787` `[::1]:8787`", "port 0 takes any free one"
    yield (
        "glob",
        "`gpt-*` `o?-mini`",
        "`*` is any run of characters, `?` is one; case counts, except under `deny`",
    )
    yield "day", "`2027-01-31`", "to its end in UTC; or a moment with its zone, `2027-01-31T18:00:00+01:00`"


def _rows(
    schema: dict[str, Any], definitions: dict[str, Any], path: str
) -> Iterator[tuple[str, str, str, str]]:
    """One row per key at or below a schema, parents before their children."""
    inner, path = _inner(schema, definitions, path)
    required = inner.get("required", ())
    for name, value in inner.get("properties", {}).items():
        default = "required" if name in required else _default(value)
        yield f"`{path}.{name}`", _words(value, definitions), default, _meaning(value, definitions)
        yield from _rows(value, definitions, f"{path}.{name}")


def _inner(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The mapping inside a schema, through references, choices, lists (`[]`) and free names (`NAME`)."""
    if "$ref" in schema:
        return definitions[schema["$ref"].rsplit("/", 1)[-1]], path
    for choice in schema.get("anyOf", ()):
        found, where = _inner(choice, definitions, path)
        if "properties" in found:
            return found, where
    if schema.get("type") == "array":
        return _inner(schema["items"], definitions, f"{path}[]")
    for free in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
        if isinstance(free, dict):
            return _inner(free, definitions, f"{path}.NAME")
    return schema, path


def _meaning(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a key says about itself, or the section that it refers to."""
    inner, _ = _inner(schema, definitions, "") if "$ref" in schema else ({}, "")
    return str(schema.get("description") or inner.get("description", ""))


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type of a value in a few words."""
    if "x-unit" in schema:
        return str(schema["x-unit"])
    if "const" in schema:
        return f"`{str(schema['const']).lower()}`"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "anyOf" in schema:
        words = [_words(choice, definitions) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "$ref" in schema or "properties" in schema or schema.get("type") == "object":
        return "mapping"
    if schema.get("type") == "array":
        inner = _words(schema["items"], definitions)
        return "list of mappings" if inner == "mapping" else f"list: {inner}"
    return {"integer": "whole number", "boolean": "`true`, `false`", "number": "number"}.get(
        schema.get("type", ""), "text"
    )


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    if value is None or value in ([], ""):
        return ""
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
