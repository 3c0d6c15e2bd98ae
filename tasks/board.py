"""Where the runner tells people how the stages are doing; the terminal and plain logs have one implementation each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

StageState = Literal["waiting", "running", "reused", "done", "failed", "stopped", "skipped"]
FINAL: frozenset[str] = frozenset({"reused", "done", "failed", "stopped", "skipped"})


class Board(Protocol):
    def state(self, node: str, state: StageState, text: str = "") -> None:
        """The stage entered a state; `text` says why or with what result."""

    def progress(self, node: str, done: int, total: int, text: str = "") -> None:
        """The stage moved on; may be called thousands of times a second."""


@dataclass
class Line:
    """What is known about one stage. began and ended are time.monotonic() values."""

    state: StageState = "waiting"
    text: str = ""
    done: int = 0
    total: int = 0
    began: float | None = None
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.began is None else (self.ended or time.monotonic()) - self.began


@dataclass
class Lines:
    """A Board that only remembers; thread-safe. Base of the boards that also show."""

    nodes: Iterable[str] = ()
    lines: dict[str, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.lines = {node: Line() for node in self.nodes}

    def state(self, node: str, state: StageState, text: str = "") -> None:
        with self._lock:
            line = self.lines.setdefault(node, Line())
            now = time.monotonic()
            if line.began is None and state != "skipped":
                line.began = now
            if state in FINAL:
                line.ended = now
            line.state, line.text = state, text

    def progress(self, node: str, done: int, total: int, text: str = "") -> None:
        with self._lock:
            line = self.lines.setdefault(node, Line())
            line.done, line.total, line.text = done, total, text

    def snapshot(self) -> Mapping[str, Line]:
        with self._lock:
            return {name: Line(**vars(line)) for name, line in self.lines.items()}


class Several:
    """One board in front of others: a terminal and a page at the same time."""

    def __init__(self, *boards: Board) -> None:
        self._boards = boards

    def state(self, node: str, state: StageState, text: str = "") -> None:
        for board in self._boards:
            board.state(node, state, text)

    def progress(self, node: str, done: int, total: int, text: str = "") -> None:
        for board in self._boards:
            board.progress(node, done, total, text)
