"""What nobody needs any more on this machine's disk: working directories of dead processes, copies not used for long.

The cache holds verified copies of what the store has; removing one costs a download. While a run is at work here the
cache is left alone: it may read a file later that it asked for earlier.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from components.artifacts.process import ProcessIdentity
from components.artifacts.tidy import DAY, Leftover

OWNER = "owner.json"


def claim_work(root: Path) -> Path:
    """This process's directory for unfinished work below `root`; those of dead processes are removed."""
    root.mkdir(parents=True, exist_ok=True)
    for old in _dead(root):
        shutil.rmtree(old, ignore_errors=True)
    mine = root / str(os.getpid())
    mine.mkdir(exist_ok=True)
    (mine / OWNER).write_text(ProcessIdentity.current().model_dump_json())
    return mine


def survey_home(home: Path, cache_days: float = 30) -> list[Leftover]:
    """Superfluous files below RINGFLOW_HOME; changes nothing. cache_days: 0 keeps every copy."""
    work = home / "work"
    found = [Leftover("work", str(path), "its process is gone", _size(path)) for path in _dead(work)]
    if cache_days:
        living = [path for path in work.glob("*") if path not in {Path(item.place) for item in found}]
        kept = "a run is at work on this machine" if any((path / OWNER).exists() for path in living) else ""
        found += [replace(item, kept=kept) for item in _unused(home / "cache", cache_days)]
    return found


def remove_local(found: list[Leftover]) -> list[Leftover]:
    """Removes what survey_home found; the same entries, with `kept` where something was in the way."""
    done = []
    for item in found:
        if not item.kept:
            try:
                _remove(Path(item.place))
            except OSError as error:
                item = replace(item, kept=str(error))
        done.append(item)
    return done


def _dead(root: Path) -> list[Path]:
    found = []
    for path in sorted(root.glob("*")):
        try:
            owner = ProcessIdentity.model_validate_json((path / OWNER).read_text())
        except (OSError, ValueError):
            continue
        if owner.certainly_dead():
            found.append(path)
    return found


def _unused(cache: Path, days: float) -> list[Leftover]:
    """Contents that nobody read or linked for that long, and views all of whose contents are among them."""
    limit = time.time() - days * DAY
    old: dict[int, Leftover] = {}
    for path in cache.glob("objects/*/*"):
        state = path.stat()
        if max(state.st_atime, state.st_mtime, state.st_ctime) < limit:
            why = f"not used for {(time.time() - max(state.st_atime, state.st_ctime)) / DAY:.0f} days"
            old[state.st_ino] = Leftover("cache", str(path), why, state.st_size)
    views = []
    for view in cache.glob("views/*"):
        files = [path for path in view.rglob("*") if path.is_file()]
        if all(path.stat().st_ino in old for path in files):
            views.append(Leftover("cache", str(view), "a view of files not used"))
        else:  # a file that is still shown stays, with all others of its view
            for path in files:
                old.pop(path.stat().st_ino, None)
    return [*old.values(), *views]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
