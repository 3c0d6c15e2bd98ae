"""Housekeeping of a store: what goes, what stays, and that nothing goes under a stage that is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from components.artifacts import tidy, tidy_local
from components.artifacts.fingerprint import fingerprint_of, identity_of
from components.artifacts.lease import Lease, LeaseRecord
from components.artifacts.process import ProcessIdentity
from components.artifacts.provenance import Provenance
from components.artifacts.resume import StoreResume, resume_step
from components.artifacts.store import Store
from components.failures import LeaseLost

IDENTITY = identity_of("s", 1, {"steps": 3}, {}, 0)
ROOT = f"p/s/{fingerprint_of(IDENTITY)}"
PROVENANCE = Provenance(created="2026-01-01T00:00:00+00:00", host="here", seed=0)


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as old enough: a storage's clock cannot be set back."""
    monkeypatch.setattr(tidy, "MINIMUM_AGE_S", -60.0)
    monkeypatch.setattr(tidy, "PROBE_AGE_S", -60.0)


def lease(store: Store, **options) -> Lease:
    project, stage, fingerprint = ROOT.split("/")
    return Lease.acquire(store, project, stage, fingerprint, **{"ttl_s": 1.0, "wait_s": 0.3, **options})


def publish(store: Store, held: Lease, directory: Path):
    directory.mkdir(exist_ok=True)
    (directory / "weights").write_bytes(b"w" * 100)
    return store.publish(held, directory, "checkpoint", IDENTITY, PROVENANCE)


def abandoned(store: Store, name: str = "000001-abandoned") -> str:
    """Files of an attempt whose process ended before the commit."""
    key = f"{ROOT}/attempts/{name}"
    store.objects.create(f"{key}/files/weights", b"half of it")
    return key


def foreign(store: Store, **changes) -> LeaseRecord:
    """Held by a process of another machine: only its beats can tell whether it lives."""
    holder = ProcessIdentity(host="elsewhere", machine="elsewhere/boot/ns", pid=1, started=1)
    record = LeaseRecord(token=4, nonce=uuid.uuid4().hex, beat=0, released=False, holder=holder, ttl_s=0.4)
    record = record.model_copy(update=changes)
    assert store.objects.create(f"{ROOT}/_LEASE", record.to_bytes())
    return record


def kinds(found) -> list[tuple[str, bool]]:
    return [(item.kind, bool(item.kept)) for item in found]


def test_the_committed_artifact_stays_and_what_lies_beside_it_goes(store, aged, tmp_path):
    with lease(store) as held:
        ref = publish(store, held, tmp_path / "out")
        resume = StoreResume(store, held, tmp_path / "scratch")
        resume.save(1, tmp_path / "out", {})  # as if the process had ended between commit and clean-up
    lost = abandoned(store)
    found = tidy.survey(store)
    assert {item.kind for item in found} >= {"attempt", "resume"}
    assert {item.place for item in found if item.kind == "attempt"} == {f"{store.url}/{lost}"}
    assert store.verify(ref.uri).ok, "a survey changes nothing"
    assert tidy.survey(store) == found
    assert all(not item.kept for item in tidy.remove(store, found))
    assert store.verify(ref.uri).ok
    assert store.objects.files(f"{ROOT}/resume") == {}
    assert store.objects.files(lost) == {}
    assert tidy.survey(store) == []


def test_what_a_stage_can_go_on_from_stays_unless_days_are_given(store, aged, tmp_path, monkeypatch):
    with lease(store) as held:
        (tmp_path / "point").mkdir()
        (tmp_path / "point" / "state").write_text("step 7")
        StoreResume(store, held, tmp_path / "scratch").save(7, tmp_path / "point", {})
    store.objects.create(f"{ROOT}/resume/000001-000002-00000008/files/state", b"cut off")
    found = [item for item in tidy.survey(store) if item.kind == "resume"]
    assert [item.key for item in found] == [f"{ROOT}/resume/000001-000002-00000008"]
    tidy.remove(store, found)
    assert resume_step(store, *ROOT.split("/")) == 7
    monkeypatch.setattr(tidy, "DAY", -1.0)
    tidy.remove(store, tidy.survey(store, resume_days=60))
    assert resume_step(store, *ROOT.split("/")) is None


def test_an_attempt_stays_while_a_resume_point_may_need_what_it_sent(store, aged, tmp_path):
    with lease(store) as held:
        outbox, other = store.outbox(held), store.outbox(held)
        (tmp_path / "point").mkdir()
        outbox.send("candidates/1/a", b"one")
        other.send("candidates/1/a", b"never in a point")
        resume = StoreResume(store, held, tmp_path / "scratch")
        resume.save(7, tmp_path / "point", {"sent": outbox.state()})
    found = [item for item in tidy.survey(store) if item.kind == "attempt"]
    assert [item.key for item in found] == [other.attempt]
    tidy.remove(store, found)
    outbox.restore(resume.latest().state["sent"])
    resume.clear()
    assert [item.key for item in tidy.survey(store) if item.kind == "attempt"] == [outbox.attempt]


def test_young_attempts_stay(store):
    abandoned(store)
    assert [item for item in tidy.survey(store) if item.kind == "attempt"] == []


def test_nothing_goes_while_a_stage_holds_the_lease(store, aged, tmp_path):
    lost = abandoned(store)
    with lease(store, ttl_s=0.4) as held:
        found, at_work = tidy.survey_with_leases(store)
        assert at_work == {held.fingerprint}
        attempts = [item for item in found if item.kind == "attempt"]
        assert [item.kept for item in attempts] == [f"{ProcessIdentity.current()} works on it"]
        # also where the stage started after the survey
        done = tidy.remove(store, [replace(item, kept="") for item in attempts])
        assert [item.kept for item in done] == ["a run works on it"]
        held.check()
        assert publish(store, held, tmp_path / "out")
    assert store.objects.files(lost)


def test_a_lease_without_beats_is_released_and_its_late_holder_cannot_commit(store, aged, tmp_path):
    record = foreign(store)
    lost = abandoned(store)
    found = tidy.survey(store)
    assert kinds(found) == [("attempt", False), ("lease", False)]
    assert "no heartbeat" in found[1].why
    tidy.remove(store, found)
    assert store.objects.files(lost) == {}
    now = LeaseRecord.model_validate_json(store.objects.read(f"{ROOT}/_LEASE").data)
    assert now.released
    assert now.token == record.token + 1
    late = Lease(store.objects, *ROOT.split("/"), record, "an old version")
    with pytest.raises(LeaseLost):
        late.verify()


def test_a_dead_process_of_this_machine_needs_no_watching(store, aged):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    holder = ProcessIdentity.current().model_copy(update={"pid": process.pid, "started": started})
    process.kill()
    process.wait()
    process.stdin.close()
    foreign(store, holder=holder, ttl_s=1000.0)
    assert [(item.kind, item.why) for item in tidy.survey(store)] == [("lease", "its process is gone")]


def test_unreadable_marker_leaves_everything_beside_it(store, aged):
    abandoned(store)
    abandoned(store, "000002-other")
    store.objects.create(f"{ROOT}/_COMMITTED", b"not a marker")
    assert tidy.survey(store) == []


def test_an_unfinished_upload_is_given_up_when_it_is_old(store, monkeypatch):
    if store.url.startswith("s3://"):
        place = {"Bucket": store.objects.bucket, "Key": f"{ROOT}/attempts/x/files/weights"}
        store.objects.fs.call_s3("create_multipart_upload", **place)
    else:
        path = store.objects.path(f"{ROOT}/attempts/x/files/.ringflow-{uuid.uuid4().hex}")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    assert [item for item in tidy.survey(store) if item.kind == "upload"] == []
    monkeypatch.setattr(tidy, "HOUR", -1.0)
    found = [item for item in tidy.survey(store) if item.kind == "upload"]
    assert len(found) == 1
    tidy.remove(store, found)
    assert store.objects.uploads() == []


def test_work_of_dead_processes_and_old_copies_go_and_a_run_at_work_keeps_the_cache(tmp_path):
    mine = tidy_local.claim_work(tmp_path / "work")
    gone = tmp_path / "work" / "1"
    gone.mkdir()
    dead = ProcessIdentity.current().model_copy(update={"started": 1})
    (gone / "owner.json").write_text(dead.model_dump_json())
    for name in ("old", "young"):
        content = tmp_path / "cache" / "objects" / name[:2] / name
        content.parent.mkdir(parents=True)
        content.write_text(name)
        view = tmp_path / "cache" / "views" / name
        view.mkdir(parents=True)
        os.link(content, view / "weights")
    # the age is that of the newest of three times, one of which cannot be set
    assert [item.kind for item in tidy_local.survey_home(tmp_path)] == ["work"]
    found = tidy_local.survey_home(tmp_path, cache_days=1e-9)
    assert {item.kept for item in found if item.kind == "cache"} == {"a run is at work on this machine"}
    (mine / "owner.json").unlink()
    time.sleep(0.05)
    done = tidy_local.remove_local(tidy_local.survey_home(tmp_path, cache_days=1e-9))
    assert all(not item.kept for item in done)
    assert not list((tmp_path / "cache").rglob("weights"))
    assert not gone.exists()
