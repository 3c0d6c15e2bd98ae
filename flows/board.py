"""Boards that show: a live table on a terminal, and plain lines for logs, pipes and Prefect workers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TextIO

from tasks.board import FINAL, Line, Lines, StageState

SYMBOLS = {"waiting": "·", "running": "▶", "reused": "≡", "done": "✔", "failed": "✘", "stopped": "■", "skipped": "-"}
STYLES = {"running": "bold", "reused": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow"}
PLAIN_PROGRESS_EVERY_S = 10.0


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
        from rich.table import Table
        from rich.text import Text

        width = max((len(name) for name in self.lines), default=8)
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(width=width, no_wrap=True)
        table.add_column(width=14, no_wrap=True)
        table.add_column(width=6, justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, line in self.snapshot().items():
            style = STYLES.get(line.state, "dim")
            table.add_row(
                Text(SYMBOLS[line.state], style),
                Text(name, style),
                _bar(line),
                Text(_clock(line.seconds) if line.began else "", "dim"),
                Text(line.text.splitlines()[0] if line.text else "", "red" if line.state == "failed" else ""),
            )
        return table


def _bar(line: Line):
    from rich.text import Text

    if line.state != "running" or line.total <= 0:
        return Text(line.state if line.state not in ("running", "waiting") else "", "dim")
    filled = round(14 * min(line.done / line.total, 1))
    return Text("━" * filled, "green") + Text("━" * (14 - filled), "bright_black")


def _clock(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
