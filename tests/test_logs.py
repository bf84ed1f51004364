"""Log lines: one event a line, no key in it, other libraries included, and no harm when nobody listens."""

import json
import logging

import pytest

from llmshield import logs, redact
from llmshield.errors import ShieldError
from llmshield.logs import Log, configure, log

SECRET = "sk-proj-Qz81xW73LmTTbA0Kd9"


@pytest.fixture
def lines():
    """Configured at debug, writing into a list; everything is put back after."""
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp", "asyncio")
    before = (root.handlers[:], root.level, log.level, log._write)
    others = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names}
    written = []
    configure("debug", written.append)
    redact.remember(SECRET)
    yield written
    redact.forget(SECRET)
    logging.captureWarnings(False)
    root.handlers[:], root.level, log.level, log._write = before
    for name, (handlers, level) in others.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


def only(lines):
    (line,) = lines
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    return json.loads(line)


def test_an_event_and_its_fields(lines):
    log.warning("provider_failed", request_id="01J", provider="openai", status=503, ms=1.5, last=None)

    record = only(lines)

    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning", "event": "provider_failed", "request_id": "01J", "provider": "openai", "status": 503,
        "ms": 1.5, "last": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"said": f"wrong key {SECRET}"},
        {"said": f"authorization: Bearer {SECRET[::-1]}x9"},
        {"headers": {"Authorization": SECRET, "x": SECRET}},
        {"deep": {"list": [{"a": (SECRET,)}]}},
        {"names": {SECRET: 1}},
        {"thing": ValueError(SECRET)},
        {"data": SECRET.encode()},
    ],
)
def test_no_key_in_any_field(lines, fields):
    log.info("x", **fields)

    line = lines[0]

    assert SECRET not in line
    assert SECRET[::-1] not in line
    assert SECRET.encode().hex() not in line
    only(lines)


@pytest.mark.parametrize(
    "value", ["a\r\nb", "\x1b[2J", "\u2028", "\x85", "\u202e", "\ud83d", "x" * 100_000, "\0"]
)
def test_a_hostile_value_stays_one_line(lines, value):
    log.info("x", said=value, more={value: [value]})

    only(lines)

    assert len(lines[0]) < 5_000


@pytest.mark.parametrize(
    "value", [1 << 70, float("nan"), float("inf"), object(), {1: 2}, {"a", "b"}, b"\xff"]
)
def test_a_value_that_json_does_not_know(lines, value):
    log.info("x", value=value)

    assert "value" in only(lines)


def test_a_value_without_end(lines):
    endless = []
    endless.append(endless)
    log.info("x", value=endless, long=list(range(10_000)))

    only(lines)
    assert len(lines[0]) < 5_000


def test_an_exception_says_what_and_where_and_shows_no_source(lines):
    def explode(key):
        raise RuntimeError(f"can't use {key}")

    try:
        explode(SECRET)
    except RuntimeError as error:
        log.exception("bad", error, request_id="r")

    record = only(lines)

    assert record["error"] == "RuntimeError"
    assert record["error_message"] == "can't use [redacted]"
    assert record["at"][-1].startswith("tests/test_logs.py:")
    assert record["at"][-1].endswith(" explode")
    assert SECRET not in lines[0]


def test_an_exception_without_traceback_and_with_cause(lines):
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    log.exception("bad", error)

    record = only(lines)

    assert record["at"] == []
    assert record["cause"] == "KeyError: 'inner'"


def test_other_libraries_write_the_same_lines(lines):
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 42)
    logging.getLogger("aiohttp.client").debug("sent x-api-key: %s", SECRET)
    logging.getLogger("uvicorn.access").info("GET / 200")
    try:
        raise OSError("broken")
    except OSError:
        logging.getLogger("asyncio").exception("Task failed\nbadly")

    records = [json.loads(line) for line in lines]

    assert [r["logger"] for r in records] == ["uvicorn.error", "aiohttp.client", "asyncio"]
    assert records[0]["message"] == "Started server process [42]"
    assert records[1]["message"] == "sent x-api-key: [redacted]"
    assert records[2]["error"] == "OSError"
    assert records[2]["message"] == "Task failed\\nbadly"


def test_a_record_with_wrong_arguments_is_still_told(lines):
    record = logging.LogRecord("somebody", logging.WARNING, __file__, 1, "%d items", ("three",), None)
    logging.getLogger().handlers[0].emit(record)

    assert only(lines)["message"] == "%d items"


def test_below_the_level_nothing_is_written(lines):
    configure("warning", lines.append)
    log.debug("a")
    log.info("b")
    logging.getLogger("x").info("c")
    log.warning("d")
    log.error("e")

    assert [json.loads(line)["event"] for line in lines] == ["d", "e"]


@pytest.mark.parametrize("name", ["", "info", " WARNING "])
def test_the_level_comes_from_the_environment(lines, monkeypatch, name):
    monkeypatch.setenv("LLMSHIELD_LOG_LEVEL", name)
    configure(write=lines.append)

    assert log.level == logs.LEVELS[name.strip().lower() or "info"]


def test_a_wrong_level_is_refused_with_the_remedy(lines, monkeypatch):
    monkeypatch.setenv("LLMSHIELD_LOG_LEVEL", "loud\x1b[31m")

    with pytest.raises(ShieldError, match="debug, info, warning, error"):
        configure(write=lines.append)


def test_a_line_that_cannot_be_written_is_counted():
    def broken(line):
        raise BrokenPipeError

    mine = Log()
    mine.to_stream(broken)
    mine.info("x")

    assert mine.lost == 1


def test_inside_an_application_its_logging_decides(caplog):
    """Without `configure` nobody's handlers are touched: an ordinary record of the logger `llmshield`."""
    mine = Log()
    with caplog.at_level(logging.WARNING, logger="llmshield"):
        mine.info("quiet")
        mine.warning("heard", provider="openai")

    assert [record.getMessage() for record in caplog.records] == ['heard {"provider":"openai"}']
    assert caplog.records[0].name == "llmshield"
