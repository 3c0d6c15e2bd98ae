"""How one service is: whether its process lives, what its probe says, where its log lies."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from infra.stack import processes
from infra.stack.probes import Unhealthy
from infra.stack.services import Service, Site

PROBE_S = 5.0


@dataclass(frozen=True)
class ServiceStatus:
    """state: healthy | unhealthy (alive, but the probe failed: `detail` says why) | stopped."""

    name: str
    state: Literal["healthy", "unhealthy", "stopped"]
    url: str
    pid: int | None = None
    uptime_s: float | None = None
    detail: str = ""
    log: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def leader_of(state: dict[str, Any], name: str) -> processes.Identity | None:
    """The process that a service was started as."""
    record = state["services"].get(name)
    return processes.Identity(record["pid"], record["started"]) if record else None


def local_status(service: Service, site: Site, state: dict[str, Any]) -> ServiceStatus:
    """Of a service of the local profile, now."""
    leader = leader_of(state, service.name)
    log = str(log_of(site.home, service.name))
    if not processes.alive(leader):
        detail = "ended without `ringflow down`" if leader else ""
        return ServiceStatus(service.name, "stopped", "", detail=detail, log=log)
    since = state["services"][service.name]["since"]
    reason = ill(service, site, since)
    return ServiceStatus(
        service.name,
        "unhealthy" if reason else "healthy",
        service.url(site),
        pid=leader.pid if leader else None,
        uptime_s=round(time.time() - since, 1),
        detail=reason or "",
        log=log,
    )


def ill(service: Service, site: Site, since: float, timeout_s: float = PROBE_S) -> str | None:
    """Why the probe of a running service fails; None when it passes."""
    try:
        service.probe(site, since, timeout_s)
    except Unhealthy as error:
        return str(error)
    return None


def log_of(home: Path, name: str) -> Path:
    """Where a service writes."""
    return home / "logs" / f"{name}.log"
