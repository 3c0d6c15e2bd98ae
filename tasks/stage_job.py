"""A stage as a job (tasks.job_service) that outlives the process of the flow, which only attends to it.

The job holds the lease, computes, publishes and writes the lineage (tasks.job_main); the flow shows its log and its
progress, and takes the result from the store. A job's id is made of project, stage, fingerprint and the number of the
attempt, and of nothing that belongs to a run. So whoever needs the same artifact, a retry, a run after a kill -9 or
another run at the same time, finds the job that is at work and attends to it too, instead of starting a second one.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.provenance import recipe_version
from components.artifacts.ref import ArtifactRef
from components.cluster.jobs import JobState, wait_ended
from components.failures import Cancelled, DeadlineExceeded, InfrastructureError, IntegrityError, RingflowError
from tasks.job_events import failure_of, last_end
from tasks.job_order import StageOrder
from tasks.job_service import STOP_S, Service, connect
from tasks.job_shown import Shown
from tasks.node import Node
from tasks.obtain import OTHER_RUN_DEADLINE_S, Timing, look, reuse
from tasks.session import Session

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
# Addresses the job gets from the flow's environment. Keys it must find in the environment of its node.
PASSED_ON = ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "RINGFLOW_JUDGE_URL", "RINGFLOW_STORE")
LOOK_EVERY_S = 3.0
# Every job waits a little for something.
TELL_WAITS_S = 15.0
RACES = 5
# The keys of a job's recipe and of the run that submitted it in what is kept about it.
RECIPE, RUN = "ringflow.recipe", "ringflow.run"


def obtain_by_job(node: Node, session: Session, refs: Mapping[str, ArtifactRef], timing: Timing) -> ArtifactRef:
    """The committed artifact, found or computed by a job; its lineage is complete in the tracker when this returns.

    Raises what the stage raised in the job, InfrastructureError when the job ended without saying why, and the same
    when nobody can be asked about it: the job goes on then, and the next attempt attends to it again.
    """
    identity = node.identity(refs, session.repeat_of(node))
    fingerprint = fingerprint_of(identity)
    found = look(node, session, fingerprint)
    if found is None:
        order = StageOrder.of(node, session, refs, session.repeat_of(node))
        jobs = connect(session.execution, node.name, node.stage.type)
        found = _Attempt(node, session, jobs, order, timing).result()
        session.computed.add(node.name)
    return reuse(node, session, found, identity)


class _Attempt:
    """One attempt at an artifact: attends to the job that is at work, else to a new one."""

    def __init__(self, node: Node, session: Session, jobs: Service, order: StageOrder, timing: Timing) -> None:
        self.node, self.session, self.jobs, self.order, self.timing = node, session, jobs, order, timing
        self.config, self.prefix = session.execution.cluster, jobs.prefix(order.stage, order.fingerprint)
        version = recipe_version(session.loaded.recipe) if session.loaded is not None else ""
        self.recipe = f"{session.execution.project}/{version}"

    def result(self) -> ArtifactRef:
        """The job at work has the hardware already; a new one waits until this flow's other stages leave it."""
        if job := self._at_work():
            return self._attend(job, False)
        with self.session.hardware:
            for _ in range(RACES):
                job, is_new = self._choose()
                if not job:
                    return self._committed()  # finished while we looked
                if not is_new or self._submit(job):
                    return self._attend(job, is_new)
        raise InfrastructureError(f"{self.node.name}: no job could be submitted in {RACES} tries; others were faster")

    def _at_work(self) -> str:
        jobs = self._numbered(self.jobs.of(self.prefix))
        return next((jobs[number].id for number in sorted(jobs, reverse=True) if not jobs[number].ended), "")

    def _numbered(self, jobs: Iterable[JobState]) -> dict[int, JobState]:
        """This stage's jobs among some, by the number of their attempt."""
        found = {job.id.removeprefix(self.prefix): job for job in jobs if job.id.startswith(self.prefix)}
        return {int(number): job for number, job in found.items() if number.isdecimal()}

    def _choose(self) -> tuple[str, bool]:
        """(id of the job to attend to, whether it is yet to be submitted); no id when the artifact is there.

        Before a new job the others of the recipe end: a flow that died may have left one, and two would share the same
        cores or GPUs (as tasks.session.Session.hardware says of the stages of one flow).
        """
        give_up, said = time.monotonic() + OTHER_RUN_DEADLINE_S, ""
        while True:
            self.session.stop.check()
            jobs = self.jobs.of(self.jobs.ours)
            known = self._numbered(jobs)
            alive = [number for number, job in known.items() if not job.ended]
            if alive:
                return known[max(alive)].id, False
            if self._found() is not None:
                return "", False
            others = [job.id for job in jobs if not job.ended and job.about.get(RECIPE) == self.recipe]
            if not others:
                return f"{self.prefix}{max(known, default=0) + 1}", True
            if time.monotonic() > give_up:
                raise DeadlineExceeded(f"{self.node.name} waited {OTHER_RUN_DEADLINE_S:g} s for job {others[0]} to end")
            if said != others[0]:
                said = others[0]
                self.session.board.state(self.node.name, "running", f"waits for job {said}")
            self.session.stop.wait(LOOK_EVERY_S)

    def _submit(self, job: str) -> bool:
        key = self.order.put(self.session.store, job)
        directory, python = self.config.directory or str(REPOSITORY), self.config.python or sys.executable
        env = {name: value for name in PASSED_ON if (value := os.environ.get(name))} | self.config.env
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [directory, self.config.env.get("PYTHONPATH", "")]))
        about = {"ringflow.stage": self.node.name, RUN: self.session.run_id, RECIPE: self.recipe}
        working = shlex.quote(self.config.directory or os.getcwd())
        command = f"cd {working} && exec {shlex.join([python, '-m', 'tasks.job_main', key])}"
        stop = f"cd {shlex.quote(directory)} && exec {shlex.join([python, '-m', 'tasks.job_stop', key, str(STOP_S)])}"
        if not self.jobs.submit(job, command, stop, env, about):
            return False
        log.info("%s: submitted as job %s", self.node.name, job)
        self.session.board.state(self.node.name, "running", f"job {job}")
        return True

    def _attend(self, job: str, is_new: bool) -> ArtifactRef:
        self.timing.started = time.monotonic()
        return self._outcome(*self._watch(job, is_new))

    def _watch(self, job: str, is_new: bool) -> tuple[JobState, dict[str, Any] | None]:
        """The job's last state and its event `end`, if it came to say one."""
        began, looked, silent, waits = time.monotonic(), 0.0, 0.0, ""
        with self.session.progress(self.node.name) as progress, self.jobs.follow(job) as tail:
            shown = Shown(self.node, self.session, progress, job, is_new)
            while True:
                if self.session.stop.is_set():
                    self._stop(job)
                    self.session.stop.check()
                shown.take(tail)
                over = shown.end is not None or tail.ended.is_set()
                if not over and time.monotonic() - looked < LOOK_EVERY_S:
                    continue
                looked = time.monotonic()
                try:
                    state = self.jobs.get(job)
                except InfrastructureError as error:
                    silent = silent or looked
                    if looked - silent > self.session.execution.start_deadline_s:
                        raise
                    log.debug("%s", error)
                    continue
                silent = 0.0
                if looked - began > TELL_WAITS_S:
                    waits = self._waits(state, waits)
                if state is None:
                    raise InfrastructureError(f"job {job} is not known any more: deleted, or Ray's head replaced")
                if state.ended:
                    shown.rest(tail)
                    self._note(shown.end, time.monotonic() - began)
                    return state, shown.end
                self._deadlines(state, looked - began)

    def _waits(self, state: JobState | None, said: str) -> str:
        """What the job waits for, told where people look when it is another thing than before."""
        now = state.message if state is not None and state.status == "PENDING" else ""
        if now and now != said:
            log.warning("%s: job %s waits: %s", self.node.name, state.id, now)
            self.session.board.state(self.node.name, "running", f"waits: {now[:300]}")
        return now

    def _deadlines(self, state: JobState, seconds: float) -> None:
        pending = state.status == "PENDING"
        limit = self.config.queue_deadline_s if pending else self.config.job_deadline_s
        if seconds > limit:
            self._stop(state.id)
            what = "waited for its resources" if pending else "worked"
            raise DeadlineExceeded(f"job {state.id} {what} for {limit:g} s and was stopped. {state.message[:300]}")

    def _stop(self, job: str) -> None:
        if self.session.stop.leaves_jobs:
            log.warning("job %s goes on; the next run of %s attends to it", job, self.node.name)
            return
        try:
            self.jobs.stop(job)
        except InfrastructureError as error:
            log.error("job %s was not told to stop: %s", job, error)
        else:
            if not wait_ended(self.jobs, job, STOP_S):
                log.error("job %s did not end within %d s; it will be killed", job, STOP_S)

    def _note(self, end: Mapping[str, Any] | None, seconds: float) -> None:
        """The stage's own seconds, as far as they passed while this run attended to it."""
        work, waited = (end or {}).get("work_seconds", seconds), (end or {}).get("waited", {})
        if work + sum(waited.values()) > seconds:
            work, waited = min(work, seconds), {}
        self.timing.work_seconds += work
        for part, took in waited.items():
            self.timing.meter.seconds[part] = self.timing.meter.seconds.get(part, 0.0) + took

    def _outcome(self, state: JobState, end: dict[str, Any] | None) -> ArtifactRef:
        """What counts is the store: a job that died after its commit has done its work."""
        found = self._found()
        if found is not None:
            self._clear()
            return found
        end = end or last_end(state.message)
        failure = failure_of(end) if end is not None else None
        if state.status == "STOPPED" or isinstance(failure, Cancelled):
            raise InfrastructureError(f"job {state.id} was stopped, and not by this run")
        if failure is not None:
            raise failure
        if state.status == "SUCCEEDED":
            raise IntegrityError(f"job {state.id} succeeded, but {self.session.store.url} has no result of it")
        raise self.jobs.failure(state)

    def _clear(self) -> None:
        try:
            self.jobs.clear(self.prefix)
        except RingflowError as error:  # the artifact is committed; what is left ends by itself
            log.warning("jobs of %s were not removed: %s", self.node.name, error)

    def _found(self) -> ArtifactRef | None:
        return self.session.store.committed(self.order.execution.project, self.order.stage, self.order.fingerprint)

    def _committed(self) -> ArtifactRef:
        found = self._found()
        if found is None:
            raise IntegrityError(f"{self.session.store.url}/{self.order.root}: the commit is gone again")
        return found
