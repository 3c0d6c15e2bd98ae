"""Temporary files of worker processes, which are usually ended by SIGKILL and clean up nothing themselves.

Each worker gets a directory named after its host and process; the next worker of this user to start here removes those
of processes that are gone (containers may share a folder, not their process table, hence the host). vLLM, torch and our
own code put their files there by TMPDIR.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path


def use_scratch_directory() -> Path:
    """Makes this process's directory, makes it the place for temporary files, and removes what dead workers left."""
    place, prefix = Path(tempfile.gettempdir()), f"ringflow-worker-{socket.gethostname()}-"
    for left in place.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix)
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)  # another worker may do the same now; another user's stays
    mine = place / f"{prefix}{os.getpid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = str(mine)
    tempfile.tempdir = None  # read again at the next use
    return mine
