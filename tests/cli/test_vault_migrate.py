"""`llmshield vault migrate`: old rows in JSON, CSV and SQLite become sealed ones; nothing is lost, a second run does
nothing, and no key is told."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from typer.testing import CliRunner, Result

from llmshield import vault
from llmshield.cli import build_app
from llmshield.sealing import KeyRing, read_key

OLD, NEW = vault.new_key(), vault.new_key()
KEYS = {"openai": "sk-CANARYopenai0001", "anthropic": "sk-ant-CANARY0002", "eu.gemini": "AIzaCANARY0003"}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(vault.VARIABLE, NEW)
    monkeypatch.setenv(vault.PREVIOUS, OLD)
    monkeypatch.chdir(tmp_path)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def ring(key: str = NEW) -> KeyRing:
    return KeyRing(read_key(key))


def run(*words: str) -> Result:
    result = CliRunner().invoke(build_app("vault"), ["vault", "migrate", *words])
    assert "CANARY" not in f"{result.output}{result.exception}"
    return result


def write_json(rows: dict[str, Any]) -> list[str]:
    Path("keys.json").write_text(
        json.dumps([{"provider": n, "api_key": v, "note": "é"} for n, v in rows.items()])
    )
    return ["keys.json"]


def read_json() -> dict[str, Any]:
    return {row["provider"]: row["api_key"] for row in json.loads(Path("keys.json").read_text())}


def write_csv(rows: dict[str, Any]) -> list[str]:
    with Path("keys.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["id", "provider", "api_key", "note"])
        writer.writerows(
            [i, n, "" if v is None else v, 'a "quoted"; note'] for i, (n, v) in enumerate(rows.items())
        )
    return ["keys.csv"]


def read_csv() -> dict[str, Any]:
    text = Path("keys.csv").read_bytes().decode()
    assert "\r\n" in text
    return {
        row["provider"]: row["api_key"] or None for row in csv.DictReader(io.StringIO(text), delimiter=";")
    }


def write_sqlite(rows: dict[str, Any]) -> list[str]:
    database = sqlite3.connect("keys.db")
    database.execute('CREATE TABLE "provider keys" (id INTEGER PRIMARY KEY, provider TEXT, "the key" TEXT)')
    database.executemany('INSERT INTO "provider keys" (provider, "the key") VALUES (?, ?)', rows.items())
    database.commit()
    database.close()
    return ["keys.db", "--table", "provider keys", "--column", "the key"]


def read_sqlite() -> dict[str, Any]:
    database = sqlite3.connect("keys.db")
    rows = dict(database.execute('SELECT provider, "the key" FROM "provider keys"').fetchall())
    database.close()
    return rows


FORMATS = pytest.mark.parametrize(
    ("write", "read"), [(write_json, read_json), (write_csv, read_csv), (write_sqlite, read_sqlite)],
    ids=["json", "csv", "sqlite"],
)  # fmt: skip
Write = Callable[[dict[str, Any]], list[str]]
Read = Callable[[], dict[str, Any]]


@FORMATS
def test_rows_are_sealed_once_and_nothing_else_changes(write: Write, read: Read) -> None:
    words = write({**{name: b64(key) for name, key in KEYS.items()}, "none": None})
    path = Path(words[0])
    before = path.read_bytes()

    result = run(*words, "--dry-run")
    assert "3 would be sealed, 0 would be sealed anew, 0 sealed already, 1 empty" in result.stdout
    assert before == path.read_bytes()
    assert [path.name] == [file.name for file in Path().iterdir()]

    result = run(*words)
    assert (0, "3 sealed, 0 sealed anew, 0 sealed already, 1 empty\n") == (result.exit_code, result.stdout)
    rows = read()
    assert rows.pop("none") is None
    assert KEYS == {name: ring().unseal_reference(value, name) for name, value in rows.items()}
    for name, other in (("openai", "anthropic"), ("anthropic", "openai")):  # rows that change places
        with pytest.raises(Exception, match="sealed for"):
            ring().unseal_reference(rows[other], name)
    assert all(b64(key).rstrip("=").encode() not in path.read_bytes() for key in KEYS.values())
    (kept,) = (file for file in Path().iterdir() if file.name.endswith(".bak"))
    assert kept.name in result.stderr
    assert 0o600 == kept.stat().st_mode & 0o777
    assert all(b64(key).encode() in kept.read_bytes() for key in KEYS.values())

    after = path.read_bytes()
    result = run(*words)
    assert "0 sealed, 0 sealed anew, 3 sealed already, 1 empty" in result.stdout
    assert after == path.read_bytes()
    assert 2 == len(list(Path().iterdir()))


@FORMATS
def test_what_an_older_key_sealed_is_sealed_anew(write: Write, read: Read) -> None:
    fernet = Fernet(base64.urlsafe_b64encode(read_key(OLD))).encrypt(b"sk-CANARY9").decode()
    words = write({"a": ring(OLD).seal_reference("sk-CANARY7", "a"), "b": f"enc://{fernet}",
                   "c": ring().seal_reference("sk-CANARY8", "c"), "d": b64("sk-CANARY6")})  # fmt: skip
    assert "1 sealed, 2 sealed anew, 1 sealed already, 0 empty" in run(*words, "--no-backup").stdout
    assert ["sk-CANARY7", "sk-CANARY9", "sk-CANARY8", "sk-CANARY6"] == [
        ring().unseal_reference(value, name) for name, value in read().items()
    ]
    assert 1 == len(list(Path().iterdir()))


@FORMATS
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": b64("sk-1"), "b": "sk-CANARY-not-base64!"}, "found no base64 of a key; --encoding plain"),
        ({"a": b64("sk-1"), "b": b64("sk-CANARY\nsecond line")}, "several lines"),
        ({"a": b64("sk-1"), "b": ring().seal_reference("sk-CANARY", "other")}, "sealed for 'other', not for 'b'"),
        ({"a": b64("sk-1"), "b": KeyRing(os.urandom(32)).seal_reference("sk-CANARY", "b")}, "LLMSHIELD_PREVIOUS_KEYS"),
        ({"a": b64("sk-1"), "b": ring().seal_reference("sk-CANARY", "b")[:-1]}, "changed or cut"),
        ({"a": b64("sk-1"), "b c": b64("sk-2")}, "expected letters"),
    ],
)  # fmt: skip
def test_one_bad_row_and_nothing_is_changed(
    write: Write, read: Read, rows: dict[str, str], words: str
) -> None:
    arguments = write(rows)
    result = run(*arguments)

    assert 1 == result.exit_code
    assert words in str(result.exception)
    assert any(place in str(result.exception) for place in ("[1]", "row 3", "row 2"))
    assert rows == read()
    assert 1 == len(list(Path().iterdir()))


@pytest.mark.parametrize(
    ("tree", "words", "read"),
    [
        ({"openai": b64("sk-1")}, [], lambda tree: tree["openai"]),
        ({"openai": {"key": b64("sk-1")}}, ["--column", "key"], lambda tree: tree["openai"]["key"]),
        ([{"id": 7, "api_key": b64("sk-1")}], ["--provider", "openai"], lambda tree: tree[0]["api_key"]),
        (
            [{"who": "openai", "api_key": b64("sk-1")}],
            ["--provider-column", "who"],
            lambda tree: tree[0]["api_key"],
        ),
        ([{"name": "openai", "api_key": "sk-1"}], ["--encoding", "plain"], lambda tree: tree[0]["api_key"]),
    ],
)
def test_shapes_of_json(tree: Any, words: list[str], read: Callable[[Any], str]) -> None:
    Path("keys.json").write_text(json.dumps(tree))
    result = run("keys.json", *words)

    assert 0 == result.exit_code, result.exception
    assert "sk-1" == ring().unseal_reference(read(json.loads(Path("keys.json").read_text())), "openai")


@pytest.mark.parametrize(
    ("name", "content", "words", "said"),
    [
        ("none.json", None, [], "none.json: No such file"),
        ("x.json", "{", [], "no JSON"),
        ("x.json", "7", [], "expected a list of objects"),
        ("x.json", "[7]", [], "[0]: expected an object"),
        ("x.json", '[{"key": "eA=="}]', [], "there is no 'api_key'; name the column with --column"),
        ("x.json", '[{"api_key": "eA=="}]', [], "whose key it is; name the column with --provider-column"),
        ("x.json", '[{"api_key": 7, "name": "a"}]', [], "found no text"),
        ("x.csv", "", [], "the file is empty"),
        ("x.csv", "a,b\n1,2\n", [], "there is no column 'api_key'"),
        ("x.csv", "provider,api_key\nopenai\n", [], "row 2: it has fewer columns"),
        ("x.bin", "sk-1", [], "expected a .json or .csv file, or an SQLite database"),
    ],
)
def test_what_can_not_be_read(name: str, content: str | None, words: list[str], said: str) -> None:
    if content is not None:
        Path(name).write_text(content)
    result = run(name, *words)

    assert 1 == result.exit_code
    assert said in str(result.exception)
    assert content is None or content == Path(name).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "say --table NAME"), (["--table", "x"], "there is no table 'x'"),
     (["--table", "provider keys"], "there is no column 'api_key'; name it with --column (there is id, provider, the key)")],
)  # fmt: skip
def test_tables_that_are_none(words: list[str], said: str) -> None:
    write_sqlite({"a": b64("sk-1")})
    result = run("keys.db", *words)

    assert 1 == result.exit_code
    assert said in str(result.exception)


def test_a_table_that_somebody_writes() -> None:
    words = write_sqlite({"a": b64("sk-1")})
    other = sqlite3.connect("keys.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    result = run(*words)
    other.close()

    assert 1 == result.exit_code
    assert "database is locked" in str(result.exception)
    assert {"a": b64("sk-1")} == read_sqlite()


def test_usage() -> None:
    assert 2 == run("x.json", "--encoding", "rot13").exit_code
