"""One real stack for the whole test session, for tests marked `server`.

It is started when the first test asks for it and ended with the session, also when that fails; a watchdog ends it when
the test process itself is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import stack as embedded
from infra.stack import StackState, processes
from infra.stack.services import EVERY

# Who forgets which server to talk to must fail, not get a throwaway Prefect server of its own.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"

WATCHDOG = """
import os, shutil, sys, time
from pathlib import Path
from infra import stack
test_session, home = int(sys.argv[1]), Path(sys.argv[2])
while os.getppid() == test_session and home.exists():
    time.sleep(1)
if home.exists():
    stack.down(home)
    shutil.rmtree(home, ignore_errors=True)
"""


def leftovers(home: Path) -> set[processes.Identity]:
    """Processes of this home's services that still run."""
    marks = [processes.mark_of(home, service.name) for service in EVERY]
    return {process for mark in marks for process in processes.members(mark, None)}


def _say_goodbye_to_prefect() -> None:
    """Sends what is left of logs and events; when this process ends, it would try for a minute to reach a server."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=10, at_exit=False)


@pytest.fixture(scope="session")
def stack() -> Iterator[StackState]:
    """A whole local stack in a home of its own; its environment is exported to this process for the session."""
    # A short path: Unix sockets below it hold 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="rf-test-", dir="/tmp"))
    before = dict(os.environ)
    os.environ["RINGFLOW_PROFILE"] = "local"
    watchdog = subprocess.Popen([sys.executable, "-c", WATCHDOG, str(os.getpid()), str(home)], start_new_session=True)
    try:
        state = embedded.up(home, deadline_s=300)
        # Ray reads its settings when it is imported, which this process did before: here it starts one of its own.
        # Commands find the stack's Ray through RINGFLOW_HOME.
        os.environ.update({key: value for key, value in state.environment.items() if not key.startswith("RAY_")})
        yield state
    finally:
        _say_goodbye_to_prefect()
        embedded.down(home)
        os.environ.clear()
        os.environ.update(before)
        alive = leftovers(home)
        shutil.rmtree(home, ignore_errors=True)
        watchdog.terminate()
        watchdog.wait(10)
    assert not alive, f"outlived `down`: {alive}"


@pytest.fixture(autouse=True)
def environment_of_this_process() -> Iterator[None]:
    """A command that a test runs in this process exports the addresses of its servers; later tests must not see them.
    Session fixtures are set up before this one, so what `stack` exports stays."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of its own for tests that break things; whatever runs in it is ended."""
    place = Path(tempfile.mkdtemp(prefix="rf-test-", dir="/tmp"))
    try:
        yield place
    finally:
        embedded.down(place)
        shutil.rmtree(place, ignore_errors=True)
