"""Files that are sent ahead of the commit: part of the artifact and of resume points, whoever sent them."""

from __future__ import annotations

import json

import pytest

from components.artifacts import chunks, s3_copy, stored
from components.artifacts.folder import Sent
from components.artifacts.local import LocalContext
from components.artifacts.manifest import FileEntry
from components.artifacts.stored import RECORD
from components.failures import BadInput, IntegrityError
from tests.components.artifacts.test_store import identity, lease_for, output, provenance  # noqa: F401  (a fixture)

WHO = identity(lr=0.1)
MODEL = {"model/a.safetensors": bytes(range(250)) * 9, "model/config.json": b"{}"}


def send(outbox, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        folder, _, name = path.rpartition("/")
        outbox.add(folder, [outbox.place(folder).send(name, [data[:7], data[7:]])])


def publish(store, lease, directory, outbox):
    return store.publish(lease, directory, "checkpoint", WHO, provenance(), outbox=outbox)


def test_what_was_sent_and_what_was_written_are_one_artifact(store, output, monkeypatch):  # noqa: F811
    for module in (chunks, stored):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    with lease_for(store, WHO) as lease:
        outbox = store.outbox(lease)
        send(outbox, MODEL)
        outbox.send("measured.json", b"[1]")
        assert outbox.read("measured.json") == b"[1]"
        with pytest.raises(BadInput, match="nothing of this name was sent"):
            outbox.read("measured")
        ref = publish(store, lease, output, outbox)
    assert [entry.path for entry in store.read_manifest(ref).files] == [
        "config.json",
        "empty",
        "measured.json",
        "model/a.safetensors",
        "model/config.json",
        "weights/a.bin",
        "weights/b.bin",
    ]
    assert store.verify(ref.uri).ok
    assert {path: (store.fetch(ref) / path).read_bytes() for path in MODEL} == MODEL
    assert (store.fetch(ref) / "weights/b.bin").read_bytes() == b"\xff" * 333
    place = store.locate(ref, "model")
    digests = json.loads(place.place.read(RECORD))["files"]
    data = MODEL["model/a.safetensors"]
    assert digests == {
        "files/model/a.safetensors": [chunks.chunk_digest(data[n : n + 1000]) for n in range(0, len(data), 1000)]
    }


def test_the_artifact_may_be_all_sent_but_no_file_twice_and_none_lost(store, output, tmp_path):  # noqa: F811
    (tmp_path / "none").mkdir()
    with lease_for(store, WHO) as lease:
        with pytest.raises(BadInput, match="produced no files"):
            publish(store, lease, tmp_path / "none", store.outbox(lease))
        outbox = store.outbox(lease)
        outbox.send("config.json", b"other")
        with pytest.raises(BadInput, match=r"config\.json was both sent and written"):
            publish(store, lease, output, outbox)
        outbox = store.outbox(lease)
        send(outbox, MODEL)
        store.objects.remove(f"{outbox.attempt}/files/model/config.json")
        with pytest.raises(IntegrityError, match=r"changed during the upload: model/config\.json"):
            publish(store, lease, tmp_path / "none", outbox)
        outbox.add("model", [Sent(FileEntry(path="config.json", size=3, sha256="0" * 64))])
        outbox.send("model/config.json", b"{}")
        ref = publish(store, lease, tmp_path / "none", outbox)
    assert [entry.path for entry in store.read_manifest(ref).files] == sorted(MODEL)
    assert store.verify(ref.uri).ok


def test_a_folder_is_copied_inside_the_storage(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_copy, "RANGE_BYTES", 5 << 20)  # the least that S3 takes: three ranges
    large = {"candidates/7/b.safetensors": bytes(range(256)) * (11 << 12), "candidates/7/entropy.json": b"{}"}
    (tmp_path / "none").mkdir()
    with lease_for(store, WHO) as lease:
        outbox = store.outbox(lease)
        send(outbox, large | {"candidates/70/x": b"x"})
        outbox.copy("candidates/7", "model", without=("entropy.json",))
        with pytest.raises(BadInput, match="nothing was sent into this folder"):
            outbox.copy("candidates/8", "model")
        ref = publish(store, lease, tmp_path / "none", outbox)
    files = {entry.path: entry for entry in store.read_manifest(ref).files}
    assert files.keys() == {*large, "candidates/70/x", "model/b.safetensors"}
    assert files["model/b.safetensors"].sha256 == files["candidates/7/b.safetensors"].sha256
    assert store.verify(ref.uri).ok
    assert not store.objects.uploads()
    digests = json.loads(store.locate(ref).place.read(RECORD))["files"]
    assert digests["files/model/b.safetensors"] == digests["files/candidates/7/b.safetensors"]


def test_a_folder_of_another_artifact_is_taken_over(store, tmp_path):
    (tmp_path / "none").mkdir()
    other = identity(lr=0.2)
    with lease_for(store, other) as lease:
        outbox = store.outbox(lease)
        send(outbox, {f"candidates/7/{path}": data for path, data in MODEL.items()} | {"candidates/7/note": b"x"})
        source = store.publish(lease, tmp_path / "none", "checkpoint", other, provenance(), outbox=outbox)
    with lease_for(store, WHO) as lease:
        outbox = store.outbox(lease)
        outbox.take(store.locate(source, "candidates/7"), "here", without=("note",))
        ref = publish(store, lease, tmp_path / "none", outbox)
    assert [entry.path for entry in store.read_manifest(ref).files] == [f"here/{path}" for path in sorted(MODEL)]
    assert store.verify(ref.uri).ok
    path = "here/model/a.safetensors"
    assert json.loads(store.locate(ref).place.read(RECORD))["files"][f"files/{path}"]
    # From one storage to another the bytes come through here, and are compared.
    context = LocalContext(tmp_path / "context", "sft")
    context.outbox.take(store.locate(ref), "there")
    assert (context.output / "there" / path).read_bytes() == MODEL["model/a.safetensors"]
    key = f"{store.key(ref.uri)}/files/{path}"
    store.objects.remove(key)
    assert store.objects.create(key, bytes(len(MODEL["model/a.safetensors"])))
    with pytest.raises(IntegrityError, match=r"a\.safetensors has sha256 [0-9a-f]{64}, not [0-9a-f]{64}"):
        context.outbox.take(store.locate(ref), "there")


def test_a_resume_point_has_what_was_sent_before_it_whoever_goes_on(store, output):  # noqa: F811
    with lease_for(store, WHO) as lease:
        first = store.outbox(lease)
        assert first.state() == {}
        send(first, {"candidates/1/a.safetensors": b"one", "candidates/2/a": b"two"})
        early = first.state()
        assert first.state() is early, "nothing new is written"
        send(first, {"candidates/2/a": b"TWO", "candidates/3/a": b"three"})
        late = first.state()
        assert json.loads(json.dumps(late)) == late
        # Going back in the same attempt: the file stays until the commit, where it is no part of the artifact.
        first.restore(early)
        with pytest.raises(BadInput):
            first.read("candidates/3/a")
        first.restore(late)
        assert first.read("candidates/3/a") == b"three"
    with lease_for(store, WHO) as lease:  # the process died; another one goes on
        second = store.outbox(lease)
        second.restore(late)
        assert second.read("candidates/2/a") == b"TWO"
        send(second, {"candidates/3/a": b"THREE", "candidates/4/a": b"four"})
        third = store.outbox(lease)
        third.restore(second.state())
        third.copy("candidates/1", "model")
        send(second, {"candidates/5/a": b"sent after the point"})
        ref = publish(store, lease, output, third)
        attempts, _, name = store.key(ref.uri).rpartition("/")
        assert len({path.split("/")[0] for path in store.objects.files(attempts)}) == 3
        third.clear()
        assert {path.split("/")[0] for path in store.objects.files(attempts)} == {name}
    assert store.verify(ref.uri).ok
    view = store.fetch(ref)
    found = {path.relative_to(view).as_posix(): path.read_bytes() for path in view.rglob("candidates/*/*")}
    assert found == {
        "candidates/1/a.safetensors": b"one",
        "candidates/2/a": b"TWO",
        "candidates/3/a": b"THREE",
        "candidates/4/a": b"four",
    }
    assert (view / "model/a.safetensors").read_bytes() == b"one"
    assert not store.objects.files(f"{store.key(ref.uri)}/sent")


def test_what_is_gone_or_damaged_is_told_before_anything_changes(store):
    with lease_for(store, WHO) as lease:
        outbox = store.outbox(lease)
        send(outbox, MODEL)
        state = outbox.state()
        other = store.outbox(lease)
        other.send("mine", b"kept")
        store.objects.remove(f"{outbox.attempt}/files/model/config.json")
        with pytest.raises(IntegrityError, match=r"model/config\.json has no bytes, recorded 2"):
            other.restore(state)
        assert other.read("mine") == b"kept"
        store.objects.remove(f"{outbox.attempt}/sent")
        with pytest.raises(IntegrityError, match=r"sent/[0-9a-f]{16}\.json is missing"):
            other.restore(state)
        with pytest.raises(IntegrityError, match="is missing"):
            outbox.copy("model", "again")
