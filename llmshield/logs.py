"""JSON log lines for operators: one event a line, redacted, with the request's id.

    log.warning("provider_failed", request_id=call.id, provider="openai", reason="connect")
    {"time":"2026-11-20T10:15:00.123Z","level":"warning","event":"provider_failed","request_id":"01J...",...}

An event is a constant, the fields say the rest; no field holds a prompt, a reply or a key, and each is scrubbed
all the same. `configure()` (the commands call it) writes lines to standard error and takes uvicorn, aiohttp and
the rest of `logging` in; without it, inside somebody's application, lines go to the logger `llmshield` and that
application decides. Telemetry may be lost: a line that can't be written is counted, not raised.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import orjson

from llmshield import clock
from llmshield.child_environment import remember_environment
from llmshield.errors import ShieldError
from llmshield.one_line import one_line
from llmshield.redact import redact, redact_headers

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

LONGEST_VALUE: Final = 1000
_DEPTH: Final = 4
_OURS: Final = "llmshield"


class Log:
    """Writes events. `level` is the lowest that is written, `lost` counts lines that could not be."""

    def __init__(self) -> None:
        self.level = LEVELS["debug"]  # until `configure`, the application's own logger decides
        self.lost = 0
        self._write: Callable[[int, str, dict[str, Any]], None] = lambda *said: _to_logging(*said)

    def debug(self, event: str, **fields: object) -> None:
        """For those who look for a fault."""
        if self.level <= 10:
            self._write(10, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """The ordinary course of things."""
        if self.level <= 20:
            self._write(20, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Somebody should look at it some time."""
        if self.level <= 30:
            self._write(30, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Somebody should look at it now."""
        if self.level <= 40:
            self._write(40, event, fields)

    def exception(self, event: str, error: BaseException, **fields: object) -> None:
        """An error with its kind, its redacted words and where it came from: no source lines, no variables."""
        self.error(event, **fields, **_told(error))

    def to_stream(self, write: Callable[[str], object]) -> None:
        """Write JSON lines with this function instead of handing events to `logging`."""

        def line(level: int, event: str, fields: dict[str, Any]) -> None:
            try:
                write(_json_line(level, event, fields))
            except (OSError, ValueError):  # a closed or broken stream: telemetry may swallow
                self.lost += 1

        self._write = line


log: Final = Log()


def configure(level: str | None = None, write: Callable[[str], object] | None = None) -> None:
    """Send everything, ours and other libraries', as JSON lines to `write` (standard error without it).

    `level` is a key of LEVELS; without it LLMSHIELD_LOG_LEVEL, else `info`. Raises: ShieldError for another word.
    """
    name = (level or os.environ.get("LLMSHIELD_LOG_LEVEL") or "info").strip().lower()
    if name not in LEVELS:
        raise ShieldError(f"LLMSHIELD_LOG_LEVEL is {one_line(name, 40)!r}; it can be {', '.join(LEVELS)}")
    remember_environment()
    log.level = LEVELS[name]
    log.to_stream(write or _to_stderr)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(log.level)
    for other in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp", "asyncio"):
        logger = logging.getLogger(other)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.disabled = False
        logger.propagate = True
    # Every call has a record of ours: uvicorn's access line would say less, twice.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.captureWarnings(True)


class _Bridge(logging.Handler):
    """Other libraries' records as our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": _message(record)}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= _told(record.exc_info[1])
        level = max(10, min(40, record.levelno // 10 * 10))
        log._write(level, "log", fields)


def _message(record: logging.LogRecord) -> str:
    """Its text; a record whose arguments do not fit is still told."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _told(error: BaseException) -> dict[str, Any]:
    """An error as fields."""
    told: dict[str, Any] = {
        "error": type(error).__name__,
        "error_message": str(error),
        "at": where(error),
    }
    if error.__cause__ is not None:
        told["cause"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
    return told


def where(error: BaseException) -> list[str]:
    """The last places that an error came through, each `file:line function`."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def _short(filename: str) -> str:
    """The last two parts of a path: enough to find the file, nothing about the machine."""
    return "/".join(filename.replace("\\", "/").rsplit("/", 2)[-2:])


_NAMES: Final = {number: name for name, number in LEVELS.items()}


def _json_line(level: int, event: str, fields: dict[str, Any]) -> str:
    """One line: whatever a field holds, no line break is inside."""
    record = {"time": stamp(clock.now()), "level": _NAMES[level], "event": event}
    for name, value in fields.items():
        record[name] = _scrub(value)
    return orjson.dumps(record).decode() + "\n"


def _scrub(value: Any, depth: int = 0) -> Any:
    """The value without secrets, without line breaks, bounded in length and depth."""
    kind = type(value)
    if kind is str:
        return one_line(redact(value), LONGEST_VALUE)
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if value is None or kind is float or kind is bool:
        return value
    if depth >= _DEPTH:
        return "..."
    if isinstance(value, dict):
        if depth == 0 and value and all(type(item) is str for item in value.values()):
            value = redact_headers(value)
        return {
            one_line(redact(str(name)), 100): _scrub(item, depth + 1)
            for name, item in list(value.items())[:50]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrub(item, depth + 1) for item in list(value)[:50]]
    return one_line(redact(str(value)), LONGEST_VALUE)


def stamp(now: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole = int(now)
    return f"{_second(whole)}.{int((now - whole) * 1000):03d}Z"


_last_second: tuple[int, str] = (-1, "")


def _second(whole: int) -> str:
    """The stamp up to the seconds; most lines fall into the second of the line before."""
    global _last_second
    if _last_second[0] != whole:
        _last_second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return _last_second[1]


def _to_logging(level: int, event: str, fields: dict[str, Any]) -> None:
    """Inside somebody's application: an ordinary record of the logger `llmshield`."""
    logger = logging.getLogger(_OURS)
    if logger.isEnabledFor(level):
        logger.log(level, "%s %s", event, orjson.dumps(_scrub(fields)).decode())


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
