"""Leases: at most one run works on a fingerprint, and one that lost its lease cannot commit.

`_LEASE` is one small object, written only conditionally (create-only, then replace-if-unchanged), so of several takers
exactly one wins. It carries a fencing token that only grows, the holder, and a beat that the holder raises every ttl/4.
No clocks are compared between machines: a waiter calls a lease stale after it has itself watched the same beat for a
ttl, and the holder calls its own lease expired a ttl after it last began a successful beat, which is always earlier.
A holder that is a dead process of this same machine is taken over at once, so a rerun after kill -9 does not wait.
After Gray & Cheriton's leases and the fencing tokens of Kleppmann; the heartbeat file is marin's executor_step_status.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid

from pydantic import BaseModel, ConfigDict, ValidationError

from components.artifacts.objects import Objects, Versioned
from components.artifacts.process import ProcessIdentity, boot_seconds
from components.failures import DeadlineExceeded, InfrastructureError, IntegrityError, LeaseExpired, LeaseLost

log = logging.getLogger(__name__)

BEATS_PER_TTL = 4
# Waiters watch a little longer than a ttl: the holder's own expiry must come first by more than timer jitter.
STALE_FACTOR = 1.2
LEASE_FILE = "_LEASE"


class LeaseRecord(BaseModel):
    """The content of `_LEASE`. `nonce` is the holder's own random token; (nonce, beat) never repeats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: int
    nonce: str
    beat: int
    released: bool
    holder: ProcessIdentity
    run_id: str = ""
    ttl_s: float

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()


class Lease:
    """A held lease; a context manager that releases. Made by `acquire`."""

    def __init__(
        self, objects: Objects, project: str, stage: str, fingerprint: str, record: LeaseRecord, version: str
    ) -> None:
        self.project, self.stage, self.fingerprint = project, stage, fingerprint
        self.ttl_s = record.ttl_s
        self._objects, self._key = objects, lease_key(project, stage, fingerprint)
        self._record, self._version = record, version
        self._renewed = boot_seconds()
        self._lost = ""
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name=f"lease-{stage}", daemon=True)

    @classmethod
    def acquire(
        cls,
        store,
        project: str,
        stage: str,
        fingerprint: str,
        ttl_s: float = 30.0,
        wait_s: float = 120.0,
        run_id: str = "",
    ) -> Lease:
        """Waits until the lease is free, stale or its holder dead, and takes it.

        Args:
            store: anything with `.objects`, i.e. a Store.
            ttl_s: seconds without a beat after which others may take it.
            wait_s: deadline of the wait. A holder that lives keeps it for as long as it works.

        Raises DeadlineExceeded naming the holder. Whoever waited must look for a commit first when it gets the lease.
        """
        objects: Objects = store.objects
        key, nonce, deadline = lease_key(project, stage, fingerprint), uuid.uuid4().hex, boot_seconds() + wait_s
        seen, since, pause = "", boot_seconds(), min(0.5, ttl_s / 8)
        while True:
            asked = boot_seconds()
            current = objects.read(key)
            if current is None or current.version != seen:
                seen, since = (current.version if current else ""), boot_seconds()
            holder = _parse(current, f"{objects.url}/{key}") if current else None
            stale = holder is not None and asked - since > holder.ttl_s * STALE_FACTOR
            if holder is None or holder.released or stale or holder.holder.certainly_dead():
                record = LeaseRecord(
                    token=holder.token + 1 if holder else 1,
                    nonce=nonce,
                    beat=0,
                    released=False,
                    holder=ProcessIdentity.current(),
                    run_id=run_id,
                    ttl_s=ttl_s,
                )
                lease = cls(objects, project, stage, fingerprint, record, "")
                if lease._take(current):
                    if holder is not None and not holder.released:
                        log.warning("lease of %s@%s taken over from %s", stage, fingerprint[:12], holder.holder)
                    return lease
                continue
            if boot_seconds() >= deadline:
                raise DeadlineExceeded(
                    f"{stage}@{fingerprint[:12]} is being computed by {holder.holder}"
                    f"{f' (run {holder.run_id})' if holder.run_id else ''}; waited {wait_s:g} s for its lease"
                )
            time.sleep(max(0.0, min(pause, deadline - boot_seconds())))

    @property
    def token(self) -> int:
        """The fencing token: larger for every later holder of this fingerprint."""
        return self._record.token

    @property
    def nonce(self) -> str:
        """Random text that only this holder knows: it signs attempts and commits."""
        return self._record.nonce

    def check(self) -> None:
        """Raises LeaseLost if the lease is gone. Costs nothing while beats arrive; a process that slept past its ttl
        (suspend, a stopped debugger) first asks the store whether anyone else took it."""
        if self._lost:
            raise LeaseLost(self._lost)
        if boot_seconds() - self._renewed > self.ttl_s:
            self.verify()

    def verify(self) -> None:
        """Renews now, in one conditional write: proof that nobody else holds it. Raises LeaseLost otherwise."""
        try:
            self._renew()
        except InfrastructureError as error:
            if boot_seconds() - self._renewed > self.ttl_s:
                raise LeaseExpired(self._describe(f"could not be renewed for {self.ttl_s:g} s: {error}")) from error
            raise
        if self._lost:
            raise LeaseLost(self._lost)

    def release(self) -> None:
        """Stops the heartbeat and marks the lease free; the token stays, so the next holder's is larger."""
        self._stop.set()
        self._thread.join(timeout=self.ttl_s)
        if self._lost:
            return
        try:
            self._write(released=True)
        except InfrastructureError as error:
            log.warning("%s", self._describe(f"could not be released and will go stale: {error}"))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, current: Versioned | None) -> bool:
        data = self._record.to_bytes()
        if current is None:
            if not self._objects.create(self._key, data):
                return False
            mine = self._objects.read(self._key)
            if mine is None or mine.data != data:
                return False
            self._version = mine.version
        else:
            version = self._objects.replace(self._key, data, current.version)
            if version is None:
                return False
            self._version = version
        self._thread.start()
        return True

    def _renew(self) -> None:
        began = boot_seconds()
        if self._write(released=False):
            self._renewed = began

    def _write(self, released: bool) -> bool:
        with self._writing:
            if self._lost:
                return False
            record = self._record.model_copy(update={"beat": self._record.beat + 1, "released": released})
            version = self._objects.replace(self._key, record.to_bytes(), self._version)
            if version is None:
                version = self._reconcile(record)
            if version is None:
                return False
            self._record, self._version = record, version
            return True

    def _reconcile(self, record: LeaseRecord) -> str | None:
        """The object changed under us: a beat of our own whose answer was lost, or another holder."""
        current = self._objects.read(self._key)
        holder = _parse(current, self._key) if current else None
        if current is not None and holder is not None and holder.nonce == self.nonce:
            return self._objects.replace(self._key, record.to_bytes(), current.version)
        who = f"taken by {holder.holder} with token {holder.token}" if holder else "deleted"
        self._lost = self._describe(f"was {who}")
        return None

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(self.ttl_s / BEATS_PER_TTL):
            try:
                self._renew()
            except InfrastructureError as error:
                # check() turns this into LeaseLost once a whole ttl has passed without a beat.
                log.warning("%s", self._describe(f"heartbeat failed: {error}"))
            except Exception as error:
                self._lost = self._describe(f"heartbeat stopped: {error}")
            if self._lost:
                log.error("%s", self._lost)
                return

    def _describe(self, what: str) -> str:
        return f"lease of {self.stage}@{self.fingerprint[:12]} (token {self.token}) {what}"


def lease_key(project: str, stage: str, fingerprint: str) -> str:
    return f"{project}/{stage}/{fingerprint}/{LEASE_FILE}"


def lease_holder(store, project: str, stage: str, fingerprint: str) -> str:
    """Who works on a fingerprint now, for people to read; empty when nobody does, as far as this machine can know."""
    key = lease_key(project, stage, fingerprint)
    current = store.objects.read(key)
    record = _parse(current, f"{store.objects.url}/{key}") if current else None
    if record is None or record.released or record.holder.certainly_dead():
        return ""
    return f"{record.holder}{f' (run {record.run_id})' if record.run_id else ''}"


def _parse(current: Versioned, where: str) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(current.data)
    except ValidationError as error:
        raise IntegrityError(f"{where}: not a lease: {error}") from error
