"""What a stage's job tells whoever follows its log: one line of JSON for each event, among the lines of others.

Each begins with a mark that nobody else prints. `log` is a log record, `now` how far the
stage is (at most a few a second, the newest wins), `end` is the last line: what became of the stage. Ray keeps the last
lines of a failed job with its state, so the end is known also where the log cannot be read any more.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from components import failures
from components.failures import BadInput, RingflowError
from components.redact import redacted
from components.telemetry.logs import OWN

MARK = "@ringflow "
SAY_EVERY_S = 0.5
# Ray keeps 20,000 characters of the last ten lines of a failed job.
LONGEST_TEXT = 4000

_writing = threading.Lock()


def say(event: str, **values: Any) -> None:
    """Writes one line to standard output, whole."""
    line = MARK + json.dumps({"event": event, **values}, ensure_ascii=True, default=str) + "\n"
    with _writing:
        os.write(1, line.encode())


def heard(line: str) -> dict[str, Any] | None:
    """The event of a line; None for a line of somebody else."""
    if not line.startswith(MARK):
        return None
    try:
        found = json.loads(line.removeprefix(MARK))
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


class LogEvents(logging.Handler):
    """ringflow's records from INFO on, others' from WARNING on, with their traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.partition(".")[0] in OWN
        if record.levelno < (logging.INFO if own else logging.WARNING):
            return
        text = record.getMessage()
        if record.exc_text or record.exc_info:
            text += "\n" + (record.exc_text or logging.Formatter().formatException(record.exc_info))  # type: ignore[arg-type]
        say("log", level=record.levelno, logger=record.name, text=redacted(text))


class EventBoard:
    """A Board (tasks.board), and the progress of a stage, as events; call it as often as you like."""

    def __init__(self) -> None:
        self._now: dict[str, Any] = {}
        self._said: dict[str, Any] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._pump, name="progress events", daemon=True)
        self._thread.start()

    def state(self, node: str, state: str, text: str = "") -> None:
        say("state", state=state, text=text)

    def progress(self, node: str, done: int, total: int, text: str = "") -> None:
        with self._lock:
            self._now |= {"done": done, "total": total, "text": text}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        with self._lock:
            self._now |= {"step": step, "metrics": {**self._now.get("metrics", {}), **values}}

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2)

    def _pump(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(SAY_EVERY_S)
            with self._lock:
                now = dict(self._now)
            if now != self._said:
                say("now", **now)
                self._said = now


def end_of(error: BaseException | None, **values: Any) -> dict[str, Any]:
    """The values of the event `end`. error: what tasks.outcome.classify says of the failure, None for success."""
    if error is None:
        return {"kind": "", **values}
    parts = (
        {"problem": error.problem, "where": error.where, "remedy": error.remedy} if isinstance(error, BadInput) else {}
    )
    return {
        "kind": type(error).__name__,
        "text": redacted(str(error))[:LONGEST_TEXT],
        **{name: text[:LONGEST_TEXT] for name, text in parts.items()},
        **values,
    }


def failure_of(end: Mapping[str, Any]) -> RingflowError | None:
    """The failure that an event `end` tells of, of the same kind as in the job; None for success."""
    if not end["kind"]:
        return None
    kind = getattr(failures, end["kind"], None)
    if isinstance(kind, type) and issubclass(kind, BadInput):
        return kind(end["problem"], where=end["where"], remedy=end["remedy"])
    if isinstance(kind, type) and issubclass(kind, RingflowError):
        return kind(end["text"])
    return RingflowError(f"{end['kind']}: {end['text']}")


def last_end(text: str) -> dict[str, Any] | None:
    """The event `end` among the lines of a text."""
    found = [event for line in text.splitlines() if (event := heard(line)) and event["event"] == "end"]
    return found[-1] if found else None
