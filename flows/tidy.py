"""Housekeeping: what nobody needs any more, everywhere, and its removal. Shared by the flow and `ringflow tidy`.

Safe beside running stages: a fingerprint's files are removed only while its lease is held here (components.artifacts.
tidy), the cache only while no run is at work on this machine, a run is marked only when its process is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts.store import Store
from components.artifacts.tidy import Leftover, remove, survey_with_leases
from components.artifacts.tidy_local import remove_local, survey_home
from flows.crashed import mark, survey_runs

WHAT = {
    "run": "crashed runs marked",
    "lease": "expired leases released",
    "attempt": "abandoned attempts",
    "order": "orders of jobs",
    "resume": "resume points",
    "upload": "unfinished uploads",
    "probe": "health check objects",
    "cache": "local copies",
    "work": "working directories",
}


@dataclass(frozen=True)
class Tidied:
    """What was found, with what became of it."""

    found: tuple[Leftover, ...]
    dry_run: bool

    def message(self) -> str:
        """One line: counts and bytes."""
        gone = [item for item in self.found if not item.kept]
        left = len(self.found) - len(gone)
        verb = "would tidy" if self.dry_run else "tidied"
        parts = [
            f"{sum(item.kind == kind for item in gone)} {what}"
            for kind, what in WHAT.items()
            if any(item.kind == kind for item in gone)
        ]
        if not parts:
            return "nothing to tidy" + (f", {left} left alone" if left else "")
        size = f", {shown_bytes(sum(item.bytes for item in gone))}"
        return f"{verb}: {', '.join(parts)}{size}" + (f"; {left} left alone" if left else "")

    def rows(self) -> list[dict[str, Any]]:
        """One per finding, for a table."""
        did = "would go" if self.dry_run else "done"
        return [
            {
                "what": item.kind,
                "result": f"left: {item.kept}" if item.kept else did,
                "size": shown_bytes(item.bytes) if item.bytes else "",
                "why": item.why,
                "where": item.place,
            }
            for item in self.found
        ]


def tidy(
    home: Path,
    *,
    dry_run: bool,
    resume_days: float = 0,
    cache_days: float = 30,
    upload_hours: float = 24,
    report: Callable[[str], None] | None = None,
) -> Tidied:
    """Looks everywhere, and removes what it found unless `dry_run`.

    Args: as for components.artifacts.tidy.survey and tidy_local.survey_home. report: gets a line per step.
    """
    tell = report or (lambda line: None)
    store = Store.open(os.environ.get("RINGFLOW_STORE"), home / "cache")
    store.check(deadline_s=20)
    tell("looking at the runs in Prefect")
    runs = survey_runs()
    tell(f"looking through {store.url}")
    stored, at_work = survey_with_leases(store, resume_days, upload_hours)
    local = survey_home(home, cache_days)
    if dry_run:
        return Tidied((*runs, *stored, *local), True)
    tell(f"removing {len(runs) + len(stored) + len(local)} findings")
    return Tidied((*mark(runs, at_work), *remove(store, stored), *remove_local(local)), False)


def shown_bytes(count: int) -> str:
    """4.2 MiB"""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, _ = value / 1024, units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
