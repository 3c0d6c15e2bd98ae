"""Publish, fetch, verify and resume on directories and on a real S3 server; any damage is found and named."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.artifacts.fingerprint import fingerprint_of, identity_of
from components.artifacts.lease import Lease
from components.artifacts.manifest import Provenance
from components.artifacts.resume import StoreResume, resume_step
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError, LeaseLost


def identity(**config) -> dict:
    return identity_of("sft", 1, config, {}, 0)


def provenance(**inputs) -> Provenance:
    return Provenance(created="2026-01-01T00:00:00+00:00", host="here", seed=0, inputs=inputs)


def lease_for(store: Store, who: dict, **options) -> Lease:
    return Lease.acquire(store, "p", "sft", fingerprint_of(who), **{"ttl_s": 5.0, "wait_s": 5.0, **options})


@pytest.fixture
def output(tmp_path):
    directory = tmp_path / "output"
    (directory / "weights").mkdir(parents=True)
    (directory / "weights" / "a.bin").write_bytes(b"\x00\x01" * 500)
    (directory / "weights" / "b.bin").write_bytes(b"\xff" * 333)
    (directory / "config.json").write_text("{}")
    (directory / "empty").write_bytes(b"")
    return directory


def publish(store, output, **config):
    who = identity(**config)
    with lease_for(store, who) as lease:
        return store.publish(lease, output, "checkpoint", who, provenance(), summary={"steps": 3})


def test_publish_then_everything_reads_back(store, output, tmp_path):
    who = identity(lr=0.1)
    assert store.committed("p", "sft", fingerprint_of(who)) is None
    ref = publish(store, output, lr=0.1)
    assert store.committed("p", "sft", fingerprint_of(who)) == ref == store.ref(ref.uri)
    assert store.ref(f"{store.url}/p/sft/{ref.fingerprint}") == ref
    assert store.list("p") == [ref]
    assert store.identities("p", "sft") == [(ref.fingerprint, who)]
    assert [entry.path for entry in store.read_manifest(ref).files] == [
        "config.json",
        "empty",
        "weights/a.bin",
        "weights/b.bin",
    ]
    view = store.fetch(ref)
    assert (view / "weights/a.bin").read_bytes() == b"\x00\x01" * 500
    assert (view / "empty").read_bytes() == b""
    copied = store.fetch(ref, "weights", tmp_path / "mine")
    assert sorted(path.name for path in copied.iterdir()) == ["a.bin", "b.bin"]
    assert store.fetch(ref, "config.json").read_text() == "{}"
    with pytest.raises(BadInput, match=r"It holds: config\.json, empty, weights"):
        store.fetch(ref, "weight")
    report = store.verify(ref.uri)
    assert report.ok
    assert report.files == 4
    assert report.bytes == 1335


def test_a_fetched_file_is_not_downloaded_twice_and_a_damaged_copy_is_replaced(store, output, tmp_path):
    ref = publish(store, output)
    path = store.fetch(ref, "weights/b.bin")
    store.objects.remove(f"{store.key(ref.uri)}/files/weights/b.bin")
    again = Store.open(store.url, tmp_path / "cache")
    assert again.fetch(ref, "weights/b.bin") == path
    path.chmod(0o644)
    path.write_bytes(b"\xfe" * 333)
    with pytest.raises(IntegrityError, match=r"weights/b\.bin is missing"):
        Store.open(store.url, tmp_path / "cache").fetch(ref, "weights/b.bin")


def test_a_second_publisher_gets_the_first_artifact(store, output):
    first = publish(store, output)
    (output / "config.json").write_text('{"other": 1}')
    assert publish(store, output) == first


def test_publish_refuses_what_is_not_the_fingerprint_and_empty_output(store, output, tmp_path):
    with lease_for(store, identity(lr=1)) as lease, pytest.raises(IntegrityError, match="fingerprint"):
        store.publish(lease, output, "checkpoint", identity(lr=2), provenance())
    (tmp_path / "nothing").mkdir()
    with lease_for(store, identity(lr=1)) as lease, pytest.raises(BadInput, match="no files"):
        store.publish(lease, tmp_path / "nothing", "checkpoint", identity(lr=1), provenance())
    assert store.list("p") == []


def test_exactly_one_of_many_runs_commits(store, output):
    who, commits, barrier = identity(race=1), [], threading.Barrier(6)

    def run(_: int):
        barrier.wait()
        with lease_for(store, who, wait_s=60) as lease:
            found = store.committed("p", "sft", lease.fingerprint)
            if found:
                return found
            commits.append(lease.token)
            return store.publish(lease, output, "checkpoint", who, provenance())

    with ThreadPoolExecutor(6) as pool:
        refs = list(pool.map(run, range(6)))
    assert len(commits) == 1
    assert len({ref.uri for ref in refs}) == 1


def test_a_lost_lease_cannot_commit_nor_save(store, output, tmp_path):
    who = identity(lost=1)
    lease = lease_for(store, who, ttl_s=60)
    current = store.objects.read(f"p/sft/{lease.fingerprint}/_LEASE")
    taken = json.loads(current.data) | {"token": 2, "nonce": "another", "beat": 0}
    assert store.objects.replace(f"p/sft/{lease.fingerprint}/_LEASE", json.dumps(taken).encode(), current.version)
    with pytest.raises(LeaseLost, match="token 2"):
        store.publish(lease, output, "checkpoint", who, provenance())
    with pytest.raises(LeaseLost):
        StoreResume(store, lease, tmp_path).save(1, output, {})
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert store.committed("p", "sft", lease.fingerprint) is None
    assert resume_step(store, "p", "sft", lease.fingerprint) is None


def damage(store, key, data: bytes | None) -> None:
    store.objects.remove(key)
    if data is not None:
        assert store.objects.create(key, data)


@pytest.mark.parametrize("kind", ["flip", "truncate", "missing", "extra", "manifest", "manifest-missing", "marker"])
def test_verify_and_fetch_find_damage(store, output, tmp_path, kind):
    ref = publish(store, output)
    base = store.key(ref.uri)
    victim = f"{base}/files/weights/b.bin"
    manifest = store.objects.read(f"{base}/manifest.json").data
    change = {
        "flip": (victim, b"\xff" * 332 + b"\xfe", "wrong content: weights/b.bin"),
        "truncate": (victim, b"\xff" * 332, "wrong size: weights/b.bin has 332"),
        "missing": (victim, None, "missing: weights/b.bin"),
        "extra": (f"{base}/files/weights/c.bin", b"x", "extra: weights/c.bin"),
        "manifest": (f"{base}/manifest.json", manifest.replace(b'"steps":3', b'"steps":4'), "manifest sha256"),
        "manifest-missing": (f"{base}/manifest.json", None, "missing: manifest.json"),
        "marker": (f"p/sft/{ref.fingerprint}/_COMMITTED", b"{}", "not a commit marker"),
    }
    key, data, problem = change[kind]
    if kind == "manifest":
        data = manifest.replace(b'"steps": 3', b'"steps": 4').replace(b'"steps":3', b'"steps":4')
        assert data != manifest
    damage(store, key, data)
    report = store.verify(ref.uri)
    assert not report.ok
    assert any(problem in line for line in report.problems), report.problems
    if kind != "extra":
        with pytest.raises(IntegrityError):
            Store.open(store.url, tmp_path / "fresh").fetch(store.ref(ref.uri))


def test_verify_and_ref_refuse_other_places(store, output):
    ref = publish(store, output)
    for uri in (f"{store.url}/p/sft/{'0' * 64}", f"{store.url}/p/sft", "s3://elsewhere/p/sft/0"):
        with pytest.raises(BadInput):
            store.verify(uri)
        with pytest.raises(BadInput):
            store.ref(uri)
    assert store.verify(f"{store.url}/p/sft/{ref.fingerprint}").uri == ref.uri


@pytest.mark.fault("a bit flipped in a checkpoint", "newest point, marker missing too", "the point before, or none")
def test_resume_points(store, output, tmp_path, caplog):
    who = identity(resume=1)
    with lease_for(store, who) as lease:
        area = StoreResume(store, lease, tmp_path / "one")
        assert area.latest() is None
        assert resume_step(store, "p", "sft", lease.fingerprint) is None
        for step in (10, 20, 30):
            (output / "config.json").write_text(str(step))
            area.save(step, output, {"cursor": step})
        with pytest.raises(BadInput, match="plain JSON"):
            area.save(40, output, {"cursor": object()})
    root = f"p/sft/{fingerprint_of(who)}/resume"
    names = sorted({key.split("/")[0] for key in store.objects.files(root)})
    assert [name[-2:] for name in names] == ["20", "30"], "the last two are kept"
    with lease_for(store, who) as lease:
        area = StoreResume(store, lease, tmp_path / "two")
        point = area.latest()
        assert point.step == 30
        assert point.state == {"cursor": 30}
        assert (point.path / "config.json").read_text() == "30"
        assert (point.path / "weights/a.bin").exists()
        damage(store, f"{root}/{names[1]}/files/weights/a.bin", b"\x00\x01" * 499 + b"\x00\x02")
        assert area.latest().step == 20
        assert "weights/a.bin has sha256" in caplog.text
        damage(store, f"{root}/{names[0]}/_COMPLETE", None)
        assert area.latest() is None, "an unfinished point is invisible"
        area.save(5, output, {})
        assert area.latest().step == 5, "after a rollback the newer point counts, though its step is smaller"
        assert resume_step(store, "p", "sft", lease.fingerprint) == 5
        area.clear()
        assert area.latest() is None
