"""An artifact, found or made: reuse, lease, work, publish, lineage. The same for a stage in the flow and for its job.

committed already? reuse it
-> lease (another run computes it? wait, then reuse)
-> the stage's function, with a real context
-> publish -> lineage
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import StoreResume
from components.artifacts.spent import Meter, spent_on
from components.failures import BadInput, DeadlineExceeded, RingflowError
from tasks.context import RunnerContext
from tasks.node import Node
from tasks.recorded import finished, provenance_of, records_of
from tasks.session import Session

log = logging.getLogger(__name__)

# A stage of a large model may take days on another machine: whoever needs the same result waits that long at most.
OTHER_RUN_DEADLINE_S = 7 * 24 * 3600.0


class Timing:
    """started: time.monotonic() when the stage's own code, or the look for its artifact, began.

    meter: what the task waited for besides the stage's own work.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.work_seconds = 0.0
        self.meter = Meter()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Counts the stage's own code without what it waits for in the store, the tracker and the like."""
        began, waited = time.monotonic(), self.meter.total()
        try:
            yield
        finally:
            self.work_seconds += time.monotonic() - began - (self.meter.total() - waited)

    def result(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "seconds": time.monotonic() - self.started,
            "work_seconds": self.work_seconds,
            "waited": dict(self.meter.seconds),
        }


def obtain(node: Node, session: Session, refs: Mapping[str, ArtifactRef], timing: Timing) -> ArtifactRef:
    """The committed artifact, found or computed; its lineage is complete in the tracker when this returns."""
    identity = node.identity(refs, session.repeat_of(node))
    fingerprint = fingerprint_of(identity)
    project, stage = session.execution.project, node.stage.type
    found = look(node, session, fingerprint)
    if found is None:
        with _lease(node, session, fingerprint) as lease:
            with spent_on("S3"):
                found = session.store.committed(project, stage, fingerprint)
            if found is None:
                with session.hardware:
                    timing.started = time.monotonic()
                    return compute(node, session, refs, identity, lease, timing)
    return reuse(node, session, found, identity)


def look(node: Node, session: Session, fingerprint: str) -> ArtifactRef | None:
    """The committed artifact. Raises BadInput when there is none and this run may not make it."""
    with spent_on("S3"):
        found = session.store.committed(session.execution.project, node.stage.type, fingerprint)
    if found is None and node.name not in session.allowed:
        raise BadInput(
            "this stage is not finished, and the run may not start it",
            where=node.name,
            remedy="Run it first: choose an earlier stage (in a form, also compute what a stage reads)",
        )
    return found


def reuse(node: Node, session: Session, found: ArtifactRef, identity: Mapping[str, Any]) -> ArtifactRef:
    """The artifact, whole, and with its lineage complete."""
    with spent_on("S3"):
        session.store.check_sizes(found)
    if session.tracker is not None:
        with spent_on("MLflow"):
            session.tracker.reused(node, session.store, found, identity)
    return found


def _lease(node: Node, session: Session, fingerprint: str) -> Lease:
    """Takes the lease; while another run holds it, waits and says so."""
    execution = session.execution
    deadline = time.monotonic() + OTHER_RUN_DEADLINE_S
    while True:
        session.stop.check()
        try:
            # longer than a stale lease takes to be recognised, which needs one uninterrupted look
            return Lease.acquire(
                session.store,
                execution.project,
                node.stage.type,
                fingerprint,
                ttl_s=execution.lease_ttl_s,
                wait_s=execution.lease_ttl_s * 1.5,
                run_id=session.run_id,
            )
        except DeadlineExceeded as error:
            if time.monotonic() > deadline:
                raise
            session.board.progress(node.name, 0, 0, str(error))


def compute(
    node: Node,
    session: Session,
    refs: Mapping[str, ArtifactRef],
    identity: Mapping[str, Any],
    lease: Lease,
    timing: Timing,
) -> ArtifactRef:
    session.stop.check()
    directory = session.work / f"{node.name}-{uuid.uuid4().hex[:8]}"
    session.board.state(node.name, "running")
    tracked = None
    made, records = provenance_of(node, session, refs), records_of(session)
    try:
        if session.tracker is not None:
            with spent_on("MLflow"):
                tracked = session.tracker.stage(node, lease.fingerprint, identity, made, records)
                tracked.guarded_by(lease.check)
        with session.progress(node.name) as progress:
            context = RunnerContext(node, session, lease, tracked, progress, directory)
            with timing.work():
                result = node.stage.function()(context, dict(refs), node.config)
        session.stop.check()
        run_id = tracked.run_id if tracked is not None else ""
        provenance = finished(made, session, context.reads, context.clock.seconds(), run_id)
        with spent_on("S3"):
            ref = session.store.publish(
                lease,
                context.output,
                node.stage.produces,
                identity,
                provenance,
                result.contract,
                result.summary,
                node=node.name,
                records=records,
                outbox=context.outbox,
            )
        session.computed.add(node.name)
        if tracked is not None:
            with spent_on("MLflow"):
                tracked.finish(session.store, ref, provenance)
        try:
            with spent_on("S3"):
                StoreResume(session.store, lease, context.scratch).clear()
                context.outbox.clear()
        except RingflowError as error:  # the artifact is committed; leftovers cost space, not correctness
            log.warning("what only resume points of %s needed was not removed: %s", node.name, error)
        return ref
    except BaseException as error:
        if tracked is not None:
            tracked.fail(error)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
