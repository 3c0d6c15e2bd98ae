"""What a stage's job says (tasks.job_events), shown where people look at a run: log, board, progress, metrics."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from components.cluster.jobs import Following
from components.telemetry.logs import here
from tasks.job_events import heard
from tasks.node import Node
from tasks.progress import Progress
from tasks.session import Session

log = logging.getLogger(__name__)

LAST_LINES_S = 10.0
EARLIER_LINES = 50


class Shown:
    """A job's lines in the run's own log, board and metrics; of those from before, the last few."""

    def __init__(self, node: Node, session: Session, progress: Progress, job: str, is_new: bool) -> None:
        self.node, self.session, self.progress, self.job = node, session, progress, job
        self.end: dict[str, Any] | None = None
        self._live, self._earlier = is_new, 0
        self._kept: deque[tuple[logging.Logger, int, str]] = deque(maxlen=EARLIER_LINES)
        if not is_new:
            log.warning("%s: job %s is at work already; this run attends to it", node.name, job)
            session.board.state(node.name, "running", f"attends to job {job}")

    def take(self, tail: Following) -> None:
        lines = tail.lines(0.2 if self.end is not None or tail.ended.is_set() else 1.0)
        for line in lines:
            self._line(line)
        if not self._live and tail.caught_up:
            self._show_kept()

    def rest(self, tail: Following) -> None:
        """The lines up to the last one of a job that has ended. Ray closes its log seconds later."""
        give_up = time.monotonic() + LAST_LINES_S
        while self.end is None and time.monotonic() < give_up and not (tail.ended.is_set() and not tail.waiting):
            self.take(tail)
        self._show_kept()

    def _line(self, line: str) -> None:
        event = heard(line)
        if event is None:
            if line.strip():
                self._record(log, logging.INFO, line)
        elif event["event"] == "log":
            self._record(logging.getLogger(event["logger"]), event["level"], event["text"])
        elif event["event"] == "began":
            self._began(event["mlflow"])
        elif event["event"] == "state":
            self.session.board.state(self.node.name, event["state"], event["text"])
        elif event["event"] == "now":
            self._now(event)
        elif event["event"] == "end":
            self.end = event

    def _began(self, mlflow_run: str) -> None:
        if not self._live and self.session.tracker is not None:
            self.session.tracker.adopt(self.node.name, mlflow_run)

    def _now(self, event: Mapping[str, Any]) -> None:
        if "done" in event:
            self.session.board.progress(self.node.name, event["done"], event["total"], event["text"])
            self.progress.set(event["done"], event["total"])
        if "metrics" in event:
            self.session.measured(self.node.name, event["metrics"], event["step"])
            if (place := here()) is not None:
                place.step = event["step"]

    def _record(self, logger: logging.Logger, level: int, text: str) -> None:
        if self._live:
            logger.log(level, "%s", text)
            return
        self._earlier += 1
        self._kept.append((logger, level, text))

    def _show_kept(self) -> None:
        if self._live:
            return
        self._live = True
        log.info("job %s has written %d lines before; the last %d:", self.job, self._earlier, len(self._kept))
        for logger, level, text in self._kept:
            logger.log(level, "%s", text)
        self._kept.clear()
