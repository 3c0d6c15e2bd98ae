"""`up`, `down` and `status` of the embedded stack.

`up` is a reconciliation (infra.stack.reconciliation), not a script; `status` asks and changes nothing
(infra.stack.health).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from infra.stack import processes
from infra.stack.health import ServiceStatus, leader_of, local_status
from infra.stack.home import credentials, home_directory, locked, prepare, read_state, write_state
from infra.stack.profile import ENDPOINTS, environment, profile
from infra.stack.reconciliation import PortTaken, Reconciliation
from infra.stack.services import EVERY, Site, wanted


@dataclass(frozen=True)
class StackState:
    """What `up` found and did. started: services this call started; notes: what a person should know (a moved port)."""

    home: Path
    profile: Literal["local", "cluster"]
    environment: dict[str, str]
    services: list[ServiceStatus]
    started: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def up(
    home: Path | str | None = None,
    *,
    deadline_s: float = 180.0,
    only: Collection[str] | None = None,
    jobs: bool | None = None,
    report: Callable[[str], None] | None = None,
) -> StackState:
    """Brings every service to health. Safe to call at any time; starts nothing in the cluster profile.

    Args:
        only: names of services to bring up, and to leave the others as they are; all by default.
        jobs: whether Ray's Jobs API belongs to this home; as before when absent, and not at first.
        report: called with one line per service that becomes healthy.

    Raises:
        BadInput: the home or the environment cannot be used.
        InfrastructureError: a service ended at its start (the message has its last log lines), or the disk is full.
        DeadlineExceeded: a service was not healthy in time, or another `up` held the lock.
    """
    began = time.monotonic()
    place = home_directory(home)
    if profile() == "cluster":
        return StackState(place, "cluster", environment(place), [])
    prepare(place)
    with locked(place, deadline_s=deadline_s):
        work = Reconciliation(place, began + deadline_s, only, report or (lambda line: None), jobs)
        try:
            work.reconcile()
        except PortTaken:
            work.reconcile()  # the second time it moves to other ports
        return StackState(
            place,
            "local",
            environment(place),
            [local_status(service, work.site(), work.state) for service in work.known],
            started=work.started,
            notes=work.notes,
            seconds=time.monotonic() - began,
        )


def down(home: Path | str | None = None, *, deadline_s: float = 60.0) -> list[int]:
    """Ends this home's processes and everything they started. Returns the pids that ran; empty when none did.

    Raises:
        DeadlineExceeded: another `up` or `down` held the lock for `deadline_s`.
    """
    place = home_directory(home)
    if profile() == "cluster" or not place.is_dir():
        return []
    with locked(place, deadline_s=deadline_s):
        state = read_state(place)
        ended = processes.end(
            {processes.mark_of(place, service.name): leader_of(state, service.name) for service in EVERY}
        )
        write_state(place, {**state, "services": {}})
        return ended


def status(home: Path | str | None = None) -> list[ServiceStatus]:
    """Probes every service, in parallel; changes nothing. In the cluster profile: the endpoints, not probed here."""
    place = home_directory(home)
    if profile() == "cluster":
        values = environment(place)
        return [ServiceStatus(name, "healthy", values[name], detail="given, not probed") for name in ENDPOINTS]
    state = read_state(place) if place.is_dir() else {"ports": {}, "services": {}}
    services = wanted(state["ports"])
    if not state["services"]:
        return [ServiceStatus(service.name, "stopped", "") for service in services]
    site = Site(place, state["ports"], credentials(place))
    with ThreadPoolExecutor(len(services)) as pool:
        return list(pool.map(lambda service: local_status(service, site, state), services))
