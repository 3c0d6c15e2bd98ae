"""A world of its own for every fault, on the session's real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import mini
from tests.flows.conftest import toys  # noqa: F401  (puts the toy stages in place, and back)


@pytest.fixture
def world(toys, tmp_path: Path) -> mini.World:  # noqa: F811
    return mini.World(tmp_path)


@pytest.fixture
def flow(world: mini.World) -> Iterator[Callable]:
    """Starts flow processes that end with the test."""
    started = []

    def start():
        started.append(world.start())
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join(10)


@pytest.fixture(scope="session", autouse=True)
def forkserver() -> None:
    """Processes of this folder are forked from one that has these modules."""
    mini.FORKED.set_forkserver_preload(["tests.faults.mini", "s3fs"])
