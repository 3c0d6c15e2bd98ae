"""One holder at a time: races of threads and processes, takeover of the dead and the stale, never of the living."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.artifacts import lease as lease_module
from components.artifacts.lease import Lease, LeaseRecord
from components.artifacts.process import ProcessIdentity
from components.artifacts.store import Store
from components.failures import DeadlineExceeded, InfrastructureError, LeaseLost

FINGERPRINT = "f" * 64


def take(store, **options) -> Lease:
    return Lease.acquire(store, "p", "s", FINGERPRINT, **{"ttl_s": 2.0, "wait_s": 0.3, **options})


def foreign(store, token: int, ttl_s: float, **changes) -> LeaseRecord:
    """A lease whose holder is on another machine, so that only its beats can tell whether it lives."""
    holder = ProcessIdentity(host="elsewhere", machine="elsewhere/boot/ns", pid=1, started=1)
    record = LeaseRecord(token=token, nonce=uuid.uuid4().hex, beat=0, released=False, holder=holder, ttl_s=ttl_s)
    record = record.model_copy(update=changes)
    assert store.objects.create(f"p/s/{FINGERPRINT}/_LEASE", record.to_bytes())
    return record


def test_tokens_grow_and_a_living_holder_is_named(store):
    with take(store, run_id="run-7") as first:
        assert first.token == 1
        with pytest.raises(DeadlineExceeded, match=f"process {os.getpid()} .*run-7"):
            take(store)
        first.check()
        first.verify()
    with take(store) as second:
        assert second.token == 2
    assert first.nonce != second.nonce


def test_heartbeats_keep_a_lease_longer_than_its_ttl(store):
    with take(store, ttl_s=1.0) as held:
        with pytest.raises(DeadlineExceeded):
            take(store, ttl_s=1.0, wait_s=3.0)
        held.check()


@pytest.mark.fault("two runs race for one stage", "five for a stale lease", "one takes it")
def test_a_stale_lease_is_taken_by_exactly_one(store):
    foreign(store, token=7, ttl_s=0.5)
    barrier = threading.Barrier(5)

    def run(_: int):
        barrier.wait()
        try:
            return take(store, wait_s=4.0, ttl_s=10.0)
        except DeadlineExceeded:
            return None

    with ThreadPoolExecutor(5) as pool:
        leases = [lease for lease in pool.map(run, range(5)) if lease]
    assert [lease.token for lease in leases] == [8]
    leases[0].release()


def test_waiting_for_staleness_takes_a_ttl_of_the_waiters_own_clock(store):
    foreign(store, token=1, ttl_s=1.5)
    began = time.monotonic()
    with take(store, wait_s=10.0):
        assert time.monotonic() - began > 1.5


def test_a_dead_process_of_this_machine_is_taken_over_at_once(store, tmp_path):
    program = f"""
        import sys, time
        from components.artifacts.lease import Lease
        from components.artifacts.store import Store
        from pathlib import Path
        store = Store.open({store.url!r}, Path({str(tmp_path / "c")!r}))
        Lease.acquire(store, "p", "s", {FINGERPRINT!r}, ttl_s=600.0, wait_s=5.0)
        print("held", flush=True)
        time.sleep(600)
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DeadlineExceeded):
            take(store)
        os.kill(holder.pid, signal.SIGKILL)
        # Not reaped yet: a zombie holds nothing either.
        began = time.monotonic()
        with take(store, wait_s=5.0) as lease:
            assert lease.token == 2
            assert time.monotonic() - began < 3
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.fault("lease lost during work", "just before the commit", "LeaseLost, no commit")
def test_a_holder_that_was_stopped_learns_that_it_lost(store):
    stopped = take(store, ttl_s=60.0)
    current = store.objects.read(f"p/s/{FINGERPRINT}/_LEASE")
    record = LeaseRecord.model_validate_json(current.data).model_copy(update={"token": 2, "nonce": "successor"})
    assert store.objects.replace(f"p/s/{FINGERPRINT}/_LEASE", record.to_bytes(), current.version)
    stopped.check()  # no beat since: it cannot know yet, and so the commit verifies
    with pytest.raises(LeaseLost, match="token 2"):
        stopped.verify()
    with pytest.raises(LeaseLost):
        stopped.check()
    stopped.release()
    kept = LeaseRecord.model_validate_json(store.objects.read(f"p/s/{FINGERPRINT}/_LEASE").data)
    assert kept.nonce == "successor"
    assert not kept.released, "a late release must not free the successor's lease"


@pytest.mark.fault("the machine sleeps", "longer than the lease", "goes on only if nobody took it")
def test_a_process_that_slept_past_its_ttl_goes_on_only_if_nobody_took_it(store, monkeypatch):
    lease = take(store, ttl_s=60.0)
    real = lease_module.boot_seconds
    monkeypatch.setattr(lease_module, "boot_seconds", lambda: real() + 3600)
    lease.check()
    store.objects.remove(f"p/s/{FINGERPRINT}/_LEASE")
    monkeypatch.setattr(lease_module, "boot_seconds", lambda: real() + 7200)
    with pytest.raises(LeaseLost, match="deleted"):
        lease.check()
    lease.release()


@pytest.mark.fault("lease lost during work", "the store is away for longer", "LeaseExpired: stops, is retried")
def test_an_unreachable_store_loses_the_lease_after_a_ttl_and_not_before(tmp_path, monkeypatch):
    store = Store.open((tmp_path / "s").as_uri(), tmp_path / "c")
    lease = take(store, ttl_s=1.0)

    def unreachable(*_):
        raise InfrastructureError("unplugged")

    monkeypatch.setattr(store.objects, "replace", unreachable)
    lease.check()
    time.sleep(1.2)
    with pytest.raises(LeaseLost, match="unplugged"):
        lease.check()
    lease.release()


@pytest.mark.fault("S3 behind a bad network", "the answer to a heartbeat is lost", "the lease stays")
def test_a_lost_answer_to_a_beat_does_not_lose_the_lease(tmp_path):
    store = Store.open((tmp_path / "s").as_uri(), tmp_path / "c")
    with take(store, ttl_s=60.0) as lease:
        current = store.objects.read(f"p/s/{FINGERPRINT}/_LEASE")
        beat = LeaseRecord.model_validate_json(current.data).model_copy(update={"beat": 1})
        store.objects.replace(f"p/s/{FINGERPRINT}/_LEASE", beat.to_bytes(), current.version)
        lease.verify()
        lease.verify()


@pytest.mark.fault("two runs race for one stage", "three processes publish", "one commit, all use it")
@pytest.mark.parametrize("processes", [3])
def test_processes_race_and_exactly_one_commits(store, tmp_path, processes):
    program = f"""
        import sys
        from pathlib import Path
        from components.artifacts.fingerprint import fingerprint_of, identity_of
        from components.artifacts.lease import Lease
        from components.artifacts.manifest import Provenance
        from components.artifacts.store import Store
        store = Store.open({store.url!r}, Path({str(tmp_path)!r}) / sys.argv[1])
        who = identity_of("s", 1, {{}}, {{}}, 0)
        output = Path({str(tmp_path)!r}) / f"out{{sys.argv[1]}}"
        output.mkdir()
        (output / "file").write_text(sys.argv[1])
        sys.stdin.readline()
        with Lease.acquire(store, "p", "s", fingerprint_of(who), ttl_s=20.0, wait_s=60.0) as lease:
            ref = store.committed("p", "s", lease.fingerprint)
            print("found" if ref else "made", end=" ")
            provenance = Provenance(created="now", host="here", seed=0)
            print((ref or store.publish(lease, output, "corpus", who, provenance)).uri)
    """
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    answers = []
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    for run in runs:
        answers.append(run.communicate(timeout=90)[0].split())
    assert sorted(answer[0] for answer in answers) == ["found"] * (processes - 1) + ["made"]
    assert len({answer[1] for answer in answers}) == 1
