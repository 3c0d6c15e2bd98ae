"""Log lines as JSON with run, stage and step, for collectors: switched on by RINGFLOW_JSON_LOG, off without it.

The variable names a file, which is appended to, or `-` for standard error. One object a line: time (UTC), level,
logger, message, and of those that are known: run, stage, step, exception. What ringflow logs is in it, libraries from
WARNING on. Prefect keeps the same messages with the run, whatever this says.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from components.failures import BadInput
from components.redact import redacted

VARIABLE = "RINGFLOW_JSON_LOG"
OWN = ("components", "flows", "tasks", "infra")


class Place:
    """Where the process is: one for each stage at work. step: the last finished one, None before the first."""

    def __init__(self, run: str, stage: str = "") -> None:
        self.run, self.stage = run, stage
        self.step: int | None = None


_here: ContextVar[Place | None] = ContextVar("ringflow_place", default=None)


def here() -> Place | None:
    """Where this thread is, None outside a run."""
    return _here.get()


@contextmanager
def at(place: Place) -> Iterator[Place]:
    """Lines of this thread (and of tasks that copy its context) say that they are from there."""
    token = _here.set(place)
    try:
        yield place
    finally:
        _here.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (place := _here.get()) is not None:
            line |= {name: value for name, value in vars(place).items() if value not in ("", None)}
        if record.exc_text or record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return redacted(json.dumps(line, ensure_ascii=False))


class _Wanted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        own = record.name.partition(".")[0] in OWN
        return record.levelno >= (logging.INFO if own else logging.WARNING)


@contextmanager
def json_log() -> Iterator[None]:
    """Writes the lines while the block runs.

    Raises:
        BadInput: the file cannot be opened.
    """
    target = os.environ.get(VARIABLE, "")
    if not target:
        yield
        return
    handler = _handler(target)
    handler.setFormatter(JsonLines())
    handler.addFilter(_Wanted())
    # Prefect gives these loggers handlers of its own and may end their propagation; a record is written once.
    loggers = [logging.getLogger(), *(own for own in map(logging.getLogger, OWN) if not own.propagate)]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _handler(target: str) -> logging.Handler:
    if target == "-":
        return logging.StreamHandler(sys.stderr)
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(target, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=f"{VARIABLE}={target}") from None
