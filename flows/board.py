"""Boards that show: a live table on a terminal, and plain lines for logs, pipes and Prefect workers."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from tasks.board import FINAL, Line, Lines, StageState

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # Prefect gives its handlers to this logger, and leaves its level to the root's WARNING

SYMBOLS = {"waiting": "·", "running": "▶", "reused": "≡", "done": "✔", "failed": "✘", "stopped": "■", "skipped": "-"}
STYLES = {"running": "bold", "reused": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow"}
PLAIN_PROGRESS_EVERY_S = 10.0
BAR = 12


class PlainBoard(Lines):
    """One line per change of state, and one per ten seconds of progress."""

    def __init__(self, nodes: Iterable[str] = (), stream: TextIO | None = None) -> None:
        super().__init__(nodes)
        self.stream = stream or sys.stderr
        self._shown: dict[str, float] = {}

    def state(self, node: str, state: StageState, text: str = "") -> None:
        super().state(node, state, text)
        seconds = self.lines[node].seconds
        took = f" {seconds:.1f}s" if state in FINAL and seconds >= 0.05 else ""
        self._say(f"{SYMBOLS[state]} {node}: {state}{took}{f' - {text}' if text else ''}")

    def progress(self, node: str, done: int, total: int, text: str = "") -> None:
        super().progress(node, done, total, text)
        now = time.monotonic()
        if now - self._shown.setdefault(node, now) >= PLAIN_PROGRESS_EVERY_S:
            self._shown[node] = now
            self._say(f"  {node}: {done}/{total} {text}".rstrip())

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class LogBoard(PlainBoard):
    """The same lines as log records: Prefect keeps them with the stage they speak of, `ringflow logs` prints them."""

    def _say(self, text: str) -> None:
        log.info(text.strip())


class LiveBoard(Lines):
    """A table that rewrites itself, readable at 80 columns: symbol, stage, bar, time, text. A context manager."""

    def __init__(self, nodes: Iterable[str]) -> None:
        super().__init__(nodes)
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True, highlight=False), get_renderable=self._table, refresh_per_second=4
        )

    def __enter__(self) -> LiveBoard:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _table(self):
        from rich.console import Group
        from rich.text import Text

        lines = self.snapshot()
        width = max((len(name) for name in lines), default=8)
        rows = []
        for name, line in lines.items():
            style = STYLES.get(line.state, "dim")
            row = Text(no_wrap=True, overflow="ellipsis")
            row.append(f"{SYMBOLS[line.state]} {name:<{width}} ", style)
            row.append_text(_bar(line))
            row.append(f" {_clock(line.seconds) if line.began else '':>6}  ", "dim")
            row.append(line.text.splitlines()[0] if line.text else "", "red" if line.state == "failed" else "")
            rows.append(row)
        return Group(*rows)


def _bar(line: Line):
    """Twelve columns: a bar while the stage runs, else its state."""
    from rich.text import Text

    if line.state != "running" or line.total <= 0:
        return Text(f"{line.state if line.state != 'waiting' else '':<{BAR}}", "dim")
    filled = round(BAR * min(line.done / line.total, 1))
    return Text("━" * filled, "green") + Text("━" * (BAR - filled), "bright_black")


def _clock(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
