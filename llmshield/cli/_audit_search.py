"""`llmshield audit search` and `export`: the same question, for people and for programs."""

from __future__ import annotations

import csv
import enum
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from llmshield import clock

if TYPE_CHECKING:
    from llmshield.evidence.searching import Found, Query

GOOD, FAILED, USAGE = 0, 1, 2
_AGO = re.compile(r"(\d{1,5})([mhd])")
_KINDS = frozenset({"call", "admin"})


class Format(enum.StrEnum):
    """How records are exported."""

    jsonl = "jsonl"
    csv = "csv"


class Misuse(Exception):
    """An option that can't be understood; the text says what was expected."""


_Policy = Annotated[
    Path | None, typer.Option("--policy", help="The policy whose `audit.sink` is read.", show_default=False)
]
_Tenant = Annotated[str | None, typer.Option(help="Of this tenant.", show_default=False)]
_User = Annotated[
    str | None, typer.Option(help="About this person (`user` of the call).", show_default=False)
]
_Client = Annotated[str | None, typer.Option(help="From this address.", show_default=False)]
_Key = Annotated[
    str | None, typer.Option(help="By this client key's id, or this administrator.", show_default=False)
]
_Since = Annotated[
    str | None,
    typer.Option(help="From then on: 2026-11-20, 2026-11-20T10:00:00Z, or 2h, 7d ago.", show_default=False),
]
_Until = Annotated[str | None, typer.Option(help="Before then.", show_default=False)]
_Model = Annotated[
    str | None, typer.Option(help="That asked for this model, or were answered by it.", show_default=False)
]
_Provider = Annotated[str | None, typer.Option(help="That asked this provider.", show_default=False)]
_Action = Annotated[
    str | None, typer.Option(help="allow, redact, block, would-block, would-redact.", show_default=False)
]
_Plugin = Annotated[
    str | None, typer.Option(help="In which this plugin spoke: pii, or pii:redact.", show_default=False)
]
_Request = Annotated[str | None, typer.Option("--request-id", help="This one.", show_default=False)]
_Kind = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", help="Of this kind; call and admin without it, `any` for all.", show_default=False
    ),
]
_Text = Annotated[
    Path | None,
    typer.Option(
        "--text",
        help="In which this text was said (a file, - for standard input); for content: hash or redacted.",
        show_default=False,
    ),
]
_Open = Annotated[bool, typer.Option("--open", help="Open sealed texts, where their keys are here.")]


def register(group: typer.Typer) -> None:
    """Mount both commands in the group."""

    @group.command("search")
    def search_command(
        policy: _Policy = None, tenant: _Tenant = None, user: _User = None, client: _Client = None, key: _Key = None,
        since: _Since = None, until: _Until = None, model: _Model = None, provider: _Provider = None,
        action: _Action = None, plugin: _Plugin = None, request_id: _Request = None, kind: _Kind = None,
        text: _Text = None,
        limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 100,
        as_json: Annotated[bool, typer.Option("--json", help="Whole records, one a line.")] = False,
        open_texts: _Open = False,
    ) -> None:  # fmt: skip
        """Find records: one line for each, the newest last."""
        asked = {
            "tenant": tenant, "user": user, "client": client, "key": key, "since": since, "until": until, "model": model, "provider": provider,
            "action": action, "plugin": plugin, "request_id": request_id,
        }  # fmt: skip
        raise typer.Exit(
            search(policy, asked, kind, text, limit=limit, as_json=as_json, open_texts=open_texts)
        )

    @group.command("export")
    def export_command(
        policy: _Policy = None, tenant: _Tenant = None, user: _User = None, client: _Client = None, key: _Key = None,
        since: _Since = None, until: _Until = None, model: _Model = None, provider: _Provider = None,
        action: _Action = None, plugin: _Plugin = None, request_id: _Request = None, kind: _Kind = None,
        text: _Text = None,
        format: Annotated[Format, typer.Option(help="JSON lines, or a CSV that no spreadsheet executes.")] = Format.jsonl,
        output: Annotated[Path | None, typer.Option(help="A new file, for its owner only; standard output without it.", show_default=False)] = None,
        open_texts: _Open = False,
    ) -> None:  # fmt: skip
        """Write records for another program."""
        asked = {
            "tenant": tenant, "user": user, "client": client, "key": key, "since": since, "until": until, "model": model, "provider": provider,
            "action": action, "plugin": plugin, "request_id": request_id,
        }  # fmt: skip
        raise typer.Exit(
            export(policy, asked, kind, text, format=format, output=output, open_texts=open_texts)
        )


def search(
    policy: Path | None, asked: dict[str, str | None], kinds: list[str] | None = None, text: Path | None = None, *,
    limit: int = 100, as_json: bool = False, open_texts: bool = False,
) -> int:  # fmt: skip
    """Print the newest records that are asked for; return the exit status."""
    from collections import deque

    def write(records: Iterator[Found]) -> None:
        for found in deque(records, limit):
            print(_line(found) if not as_json else json.dumps(found.record, ensure_ascii=False))

    return _with_records("search", policy, asked, kinds, text, write, open_texts=open_texts)


def export(
    policy: Path | None, asked: dict[str, str | None], kinds: list[str] | None = None, text: Path | None = None, *,
    format: Format = Format.jsonl, output: Path | None = None, open_texts: bool = False,
) -> int:  # fmt: skip
    """Write the records that are asked for; return the exit status."""
    from llmshield.evidence.searching import COLUMNS, row

    def write(records: Iterator[Found]) -> None:
        with _target(output) as file:
            if format is Format.jsonl:
                for found in records:
                    file.write(json.dumps(found.record) + "\n")
                return
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(row(found) for found in records)

    return _with_records("export", policy, asked, kinds, text, write, open_texts=open_texts)


def _with_records(
    command: str, policy: Path | None, asked: dict[str, str | None], kinds: list[str] | None, text: Path | None,
    write: object, *, open_texts: bool,
) -> int:  # fmt: skip
    """Find the segments, put the question, write the answer."""
    from llmshield.cli.audit import sink_of
    from llmshield.errors import ShieldError
    from llmshield.evidence import segments
    from llmshield.evidence.searching import find

    assert callable(write)
    sink = Path("audit.jsonl")
    if policy is not None:
        found = sink_of(policy, f"audit {command}")
        if found is None:
            return USAGE
        sink = found[0]
    paths = segments(sink)
    if not paths:
        print(
            f"llmshield audit {command}: no segment {sink.stem}*{sink.suffix} in {sink.parent}",
            file=sys.stderr,
        )
        return USAGE
    try:
        query = _query(sink, asked, kinds, text)
        records = find(paths, query)
        write(_opened(records, sink) if open_texts else records)
    except Misuse as error:
        print(f"llmshield audit {command}: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever reads has enough
    except OSError as error:
        print(f"llmshield audit {command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    except ShieldError as error:
        print(f"llmshield audit {command}: {error}", file=sys.stderr)
        return FAILED
    return GOOD


def _query(sink: Path, asked: dict[str, str | None], kinds: list[str] | None, text: Path | None) -> Query:
    """The question in the words of records. Raises: Misuse, ShieldError, OSError."""
    from llmshield.evidence.identifiers import TEXTS, Identifiers, text_hash
    from llmshield.evidence.people import People
    from llmshield.evidence.searching import Query
    from llmshield.redact import redact

    get = asked.get
    query = Query(
        tenant=get("tenant"), model=get("model"), provider=get("provider"), action=get("action"), plugin=get("plugin"),
        request_id=get("request_id"),
    )  # fmt: skip
    query.kinds = frozenset(kinds) if kinds else _KINDS
    if "any" in query.kinds or asked.get("request_id"):
        query.kinds = None
    query.since, query.until = _time(asked.get("since")), _time(asked.get("until"))
    hashed = {name: value for name in ("user", "client", "key") if (value := asked.get(name)) is not None}
    if hashed or text is not None:
        ids = Identifiers.of(sink, make=False)
        people = People(sink, ids)
        if "client" in hashed:
            query.clients = frozenset(ids.spellings(hashed["client"]))
        if "key" in hashed:
            query.keys = frozenset(ids.spellings(hashed["key"]))
        if "user" in hashed:
            query.users = frozenset(
                each.pseudonym for each in people.find(hashed["user"], asked.get("tenant"))
            )
            if not query.users:
                print("nobody of this name is on record here (or is no more)", file=sys.stderr)
        if text is not None:
            said = sys.stdin.read() if str(text) == "-" else text.read_text("utf-8")
            query.said = redact(said.removesuffix("\n"))
            keys = [*ids.text_keys, *(each.ring.derive(TEXTS) for each in people.all())]
            query.texts = frozenset(text_hash(key, query.said) for key in keys)
    return query


def _opened(records: Iterator[Found], sink: Path) -> Iterator[Found]:
    from llmshield.evidence.identifiers import Identifiers
    from llmshield.evidence.people import People
    from llmshield.evidence.searching import opened

    ids = Identifiers.of(sink, make=False)
    rings = {person.pseudonym: person.ring for person in People(sink, ids).all()}
    for found in records:
        yield found._replace(record=opened(found.record, rings, ids.rings))


def _time(text: str | None) -> str | None:
    """A time as records write it. Raises: Misuse."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        unit = {"m": "minutes", "h": "hours", "d": "days"}[ago[2]]
        moment = datetime.fromtimestamp(clock.now(), UTC) - timedelta(**{unit: int(ago[1])})
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise Misuse(
                f"found {text!r:.60}, expected a time such as 2026-11-20, 2026-11-20T10:00:00Z, 2h or 7d"
            ) from None
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _line(found: Found) -> str:
    """One record for people. What others have chosen is shown as it stands in the record, which is scrubbed."""
    get = found.record.get
    if get("kind") == "admin":
        return f"{found.time}  admin  {get('role')}  {get('action')}  {get('target')}  {get('outcome')}"
    spoke = [
        f"{v.get('plugin')}:{v.get('action')}" for v in get("verdicts") or () if v.get("action") != "allow"
    ]
    parts = [found.time, get("request_id"), get("tenant"), get("user"), get("model"), get("provider"), get("action"),
             get("status"), get("error"), get("cost_usd"), ",".join(spoke)]  # fmt: skip
    if get("kind") != "call":
        parts.insert(1, get("kind"))
    return "  ".join(str(part) if part not in {None, ""} else "-" for part in parts)


@contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a new file for its owner only. Raises: Misuse when it is there already, OSError."""
    if output is None:
        yield sys.stdout
        return
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Misuse(f"{output} is there already; name a new file") from None
    with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
        yield file
