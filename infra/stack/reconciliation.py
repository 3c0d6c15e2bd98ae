"""One reconciliation of the embedded stack: it compares what should run with what does, service by service, and starts
only what is missing, dead, or started with other settings.

Starts go in parallel (each server spends most of its start importing), the waiting is one loop with one deadline.
Processes run in sessions of their own, so that Ctrl-C in the terminal that started them does not reach them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from infra.stack import database, processes
from infra.stack.health import ill, leader_of, log_of
from infra.stack.home import credentials, read_state, write_json, write_state
from infra.stack.ports import GRPC_OFFSET, choose, free
from infra.stack.profile import JOBS_PORT
from infra.stack.services import JOBS, Service, Site, wanted

# A live server on a machine that computes hard may answer late; a restart in the middle of a run costs far more.
PATIENCE_S = 60.0
# A server that was killed or ended a moment ago may still have its sockets.
CLOSING_S, CLOSED_S = 5.0, 1.0
LOG_TAIL_LINES = 15
LARGEST_LOG_BYTES = 20 << 20


class PortTaken(InfrastructureError):
    """Another program took a port between the choice and the start."""


class Reconciliation:
    """Make and use it under the home's lock; after PortTaken, once more."""

    def __init__(
        self,
        home: Path,
        give_up: float,
        only: Collection[str] | None,
        report: Callable[[str], None],
        jobs: bool | None = None,
    ) -> None:
        self.home, self.give_up, self.report = home, give_up, report
        self.keys = credentials(home, create=True)
        self.state = read_state(home)
        ports = self.state["ports"]
        if jobs and JOBS_PORT not in ports:
            ports[JOBS_PORT] = choose(ports.values())
        elif jobs is False and ports.pop(JOBS_PORT, None):
            processes.end({processes.mark_of(home, JOBS.name): leader_of(self.state, JOBS.name)})
            self.state["services"].pop(JOBS.name, None)
            write_state(home, self.state)
        self.known = wanted(ports)
        self.services = _chosen(only, self.known)
        self.started: list[str] = []
        self.notes: list[str] = []
        self.tries: Counter[str] = Counter()

    def site(self) -> Site:
        return Site(self.home, self.state["ports"], self.keys)

    def reconcile(self) -> None:
        self._choose_ports()
        keep = self._healthy_now()
        keep = {s.name: keep[s.name] for s in self.services if s.name in keep and s.lives_with in (None, *keep)}
        waiting = [service for service in self.services if service.name not in keep]
        if not waiting:
            return
        if {"prefect", "mlflow"} & {service.name for service in waiting}:
            database.check(self.keys)
        processes.end(
            {processes.mark_of(self.home, service.name): leader_of(self.state, service.name) for service in waiting}
        )
        for service in waiting:
            ran_before = self.state["services"].pop(service.name, None) is not None
            self._move_taken_ports(service, CLOSING_S if ran_before else CLOSED_S)
        write_state(self.home, self.state)
        # A moved port changes the settings of the services that were kept: those must start again with them.
        stale = [
            service for service in self.known if service.name in keep and self._digest(service) != keep[service.name]
        ]
        if stale:
            processes.end({processes.mark_of(self.home, s.name): leader_of(self.state, s.name) for s in stale})
            waiting = [service for service in self.services if service in waiting or service in stale]
        self._start_all(waiting)

    def _choose_ports(self) -> None:
        ports = self.state["ports"]
        for service in self.known:
            for name in service.ports:
                if name not in ports:
                    ports[name] = choose(ports.values(), paired=service.paired)

    def _move_taken_ports(self, service: Service, patience_s: float) -> None:
        """patience_s: a killed server is gone from the process table before the kernel has closed its last socket."""
        ports, give_up = self.state["ports"], time.monotonic() + patience_s
        for name in service.ports:
            wanted = [ports[name], ports[name] + GRPC_OFFSET] if service.paired else [ports[name]]
            while not (usable := all(free(port) for port in wanted)) and time.monotonic() < give_up:
                time.sleep(0.05)
            if usable:
                continue
            moved = choose(ports.values(), paired=service.paired)
            self.notes.append(f"{service.name}: port {ports[name]} is in use by another program; moved to {moved}")
            ports[name] = moved

    def _digest(self, service: Service) -> str:
        """Changes when the service would be started with other settings (another port or key, an upgraded command)."""
        site = self.site()
        # The caller's proxy settings are no reason to restart a server under a running pipeline.
        variables = {name: value for name, value in service.variables(site).items() if name.lower() != "no_proxy"}
        files = list(service.files(site).values())
        settings = json.dumps([service.command(site), variables, files], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _healthy_now(self) -> dict[str, str]:
        """Services to leave alone: name -> digest of their settings."""

        def check(service: Service) -> tuple[str, str] | None:
            leader = leader_of(self.state, service.name)
            record = self.state["services"].get(service.name)
            if record is None or record["digest"] != self._digest(service):
                return None
            patience = min(time.monotonic() + PATIENCE_S, self.give_up)
            while processes.alive(leader):
                if ill(service, self.site(), record["since"]) is None:
                    return service.name, record["digest"]
                if time.monotonic() > patience:
                    return None
                time.sleep(0.5)
            return None

        with ThreadPoolExecutor(len(self.known)) as pool:
            return dict(found for found in pool.map(check, self.services) if found is not None)

    def _start_all(self, services: list[Service]) -> None:
        ready = {service.name for service in self.known} - {service.name for service in services}
        to_start, running = list(services), list[Service]()
        while to_start or running:
            for service in [service for service in to_start if service.after is None or service.after in ready]:
                to_start.remove(service)
                running.append(service)
                self._start(service)
            for service in list(running):
                if self._became_healthy(service):
                    running.remove(service)
                    ready.add(service.name)
                    self.started.append(service.name)
                    self.report(f"{service.name}: {service.url(self.site())}")
            time.sleep(0.25)  # each look is a request to servers that are still importing

    def _start(self, service: Service) -> None:
        site, log = self.site(), log_of(self.home, service.name)
        if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
            os.replace(log, log.with_suffix(".log.1"))
        mark = {processes.MARK: processes.mark_of(self.home, service.name)}
        for path, content in service.files(site).items():
            write_json(path, content, mode=0o600)
        try:
            leader = processes.start(
                service.command(site),
                environment={**_inherited(), **service.variables(site), **mark},
                log=log,
                cwd=service.cwd(site),
            )
        except OSError as error:
            raise InfrastructureError(f"{service.name} could not be started: {error}. Run: make install") from error
        self.state["services"][service.name] = {
            **leader.as_json(),
            "digest": self._digest(service),
            "since": time.time(),
        }
        write_state(self.home, self.state)

    def _became_healthy(self, service: Service) -> bool:
        leader = leader_of(self.state, service.name)
        # Asked before the probe, so that another program on our port cannot pass for a server that has ended.
        if not processes.alive(leader):
            self._ended_at_start(service)
            return False
        reason = ill(service, self.site(), self.state["services"][service.name]["since"], timeout_s=2.0)
        if reason is not None and time.monotonic() > self.give_up:
            log = log_of(self.home, service.name)
            tail = _tail(log)
            processes.end({processes.mark_of(self.home, service.name): leader})
            raise DeadlineExceeded(
                f"{service.name} was started but did not become healthy in time ({reason}), and was stopped. "
                f"Last lines of {log}:\n{tail}"
            )
        return reason is None and processes.alive(leader)

    def _ended_at_start(self, service: Service) -> None:
        log = log_of(self.home, service.name)
        tail = _tail(log)
        leader = leader_of(self.state, service.name)
        processes.end({processes.mark_of(self.home, service.name): leader})
        del self.state["services"][service.name]
        write_state(self.home, self.state)
        if any(not free(self.state["ports"][name]) for name in service.ports):
            raise PortTaken(f"{service.name} ended at its start and one of its ports is in use. {log}:\n{tail}")
        self.tries[service.name] += 1
        if self.tries[service.name] < service.tries:
            self.notes.append(f"{service.name}: ended at its start and was started again; see {log}")
            self._start(service)
            return
        raise InfrastructureError(
            f"{service.name} ended at its start. Last lines of {log}:\n{tail}\n"
            "The other services keep running: correct the cause and run `ringflow up` again, or `ringflow down`"
        )


def _chosen(only: Collection[str] | None, known: tuple[Service, ...]) -> tuple[Service, ...]:
    unknown = set(only or ()) - {service.name for service in known}
    if unknown:
        raise BadInput(
            f"no such service: {', '.join(sorted(unknown))}",
            where="only",
            remedy=f"There are {', '.join(service.name for service in known)}",
        )
    return tuple(service for service in known if only is None or service.name in only)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log was written)"
    return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    (the log is empty)"


def _inherited() -> dict[str, str]:
    """This process's environment without the settings of other stacks, servers and thread pools."""
    foreign = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "RINGFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
