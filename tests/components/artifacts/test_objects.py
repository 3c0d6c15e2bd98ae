"""The two conditional writes, listings and the probe, on directories and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.artifacts import folder
from components.artifacts.store import Store
from components.failures import BadInput, DeadlineExceeded, InfrastructureError, IntegrityError


def test_create_has_one_winner_and_knows_its_own_bytes(store):
    barrier = threading.Barrier(8)

    def write(name: int) -> bool:
        barrier.wait()
        return store.objects.create("race/marker", f"writer-{name}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    winner = store.objects.read("race/marker").data
    assert winner == f"writer-{won.index(True)}".encode()
    # A success whose answer was lost is asked again: same bytes, still ours; other bytes, refused.
    assert store.objects.create("race/marker", winner)
    assert not store.objects.create("race/marker", b"other")


def test_replace_has_one_winner(store):
    store.objects.create("race/lease", b"first")
    version = store.objects.read("race/lease").version
    barrier = threading.Barrier(8)

    def write(name: int) -> str | None:
        barrier.wait()
        return store.objects.replace("race/lease", f"writer-{name}".encode(), version)

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(write, range(8)))
    winners = [index for index, new in enumerate(versions) if new is not None]
    assert len(winners) == 1
    current = store.objects.read("race/lease")
    assert current.data == f"writer-{winners[0]}".encode()
    assert current.version == versions[winners[0]]
    assert store.objects.replace("race/absent", b"x", version) is None


def test_files_folders_and_remove(store, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(b"12345")
    digest = hashlib.sha256(b"12345").hexdigest()
    for key in ("p/a/one.bin", "p/a/deep/two words #%.bin", "p/b/üñ.bin"):
        store.objects.put(local, key, digest)
    assert store.objects.files("p/a") == {"one.bin": 5, "deep/two words #%.bin": 5}
    assert store.objects.folders("p") == ["a", "b"]
    assert store.objects.folders("nothing") == []
    assert store.objects.files("nothing") == {}
    assert b"".join(store.objects.blocks("p/b/üñ.bin")) == b"12345"
    assert store.objects.get("p/a/one.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"12345"
    assert not store.objects.get("p/a/none.bin", tmp_path / "copy2")
    store.objects.remove("p/a")
    assert store.objects.files("p") == {"b/üñ.bin": 5}
    assert store.objects.read("p/a/one.bin") is None


def test_s3_rejects_an_upload_that_does_not_have_its_digest(s3_environment, tmp_path):
    store = Store.open("s3://ringflow-start", tmp_path)
    (tmp_path / "file").write_bytes(b"what is there")
    with pytest.raises(InfrastructureError):
        store.objects.put(tmp_path / "file", "digest/file", hashlib.sha256(b"what was hashed").hexdigest())


def test_large_object_goes_through_multipart_and_back(s3_environment, tmp_path):
    store = Store.open("s3://ringflow-start", tmp_path)
    block = bytes(range(256)) * 4096
    with open(tmp_path / "large", "wb") as stream:
        for _ in range(105):
            stream.write(block)
    digest = hashlib.file_digest(open(tmp_path / "large", "rb"), "sha256").hexdigest()  # noqa: SIM115
    store.objects.put(tmp_path / "large", "large/file", digest)
    store.objects.get("large/file", tmp_path / "back")
    assert hashlib.file_digest(open(tmp_path / "back", "rb"), "sha256").hexdigest() == digest  # noqa: SIM115
    streamed = hashlib.sha256()
    for part in store.objects.blocks("large/file"):
        streamed.update(part)
    assert streamed.hexdigest() == digest


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (11 << 20) + 7])
def test_a_stream_is_one_object_whose_parts_are_read(store, monkeypatch, size):
    monkeypatch.setattr(folder, "PART_BYTES", 5 << 20)  # the least that S3 takes
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    place = folder.Folder.of(store.objects, "a/folder")
    entry = place.send("deep/file", [data[:1000], memoryview(data)[1000:]]).file
    assert (entry.size, entry.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert store.objects.files("a/folder") == {"deep/file": size}
    assert place.holding([entry]).read("deep/file") == data
    for start, length in ((0, size), (size // 2, 9), (size, 3), (3, 0)):
        assert store.objects.read_part("a/folder/deep/file", start, length) == data[start : start + length]
    assert store.objects.read_part("a/folder/none", 0, 5) is None
    with pytest.raises(IntegrityError, match=rf"deep/file ends at byte {size}, recorded up to {size + 5}"):
        place.read_part("deep/file", max(size - 2, 0), size + 5 - max(size - 2, 0))
    store.objects.remove("a/folder/deep/file")
    assert store.objects.create("a/folder/deep/file", data + b"x")
    with pytest.raises(IntegrityError, match=r"deep/file has sha256 [0-9a-f]{64}, recorded [0-9a-f]{64}"):
        place.holding([entry]).read("deep/file")
    assert not store.objects.uploads()


def test_a_stream_that_breaks_leaves_no_object_and_no_upload(store, monkeypatch):
    monkeypatch.setattr(folder, "PART_BYTES", 5 << 20)

    def broken():
        yield bytes(11 << 20)
        raise IntegrityError("the source broke")

    with pytest.raises(IntegrityError, match="the source broke"):
        folder.Folder.of(store.objects, "a").send("file", broken())
    assert store.objects.files("a") == {}
    assert not store.objects.uploads()


def test_a_rank_without_credentials_says_on_which_host(s3_environment, monkeypatch, tmp_path):
    place = folder.Folder.of(Store.open("s3://ringflow-start", tmp_path).objects, "keyless")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in repr(place)
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    folder._objects.cache_clear()
    with pytest.raises(BadInput, match=rf"from host {socket.gethostname()}.*no S3 credentials.*Every Ray node"):
        place.send("file", [b"x"])
    folder._objects.cache_clear()


def _timed(store: Store, kind: type[Exception], text: str, deadline_s: float = 5) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=text):
        store.check(deadline_s)
    assert time.monotonic() - began < deadline_s + 3


def test_check_tells_wrong_credentials(s3_environment, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _timed(Store.open("s3://ringflow-start", tmp_path), BadInput, "refused the credentials")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    _timed(Store.open("s3://ringflow-start", tmp_path), BadInput, "refused the credentials")


def test_check_tells_missing_credentials(s3_environment, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    _timed(Store.open("s3://ringflow-start", tmp_path), BadInput, "no S3 credentials")


def test_check_tells_a_missing_bucket_and_creates_it_on_request(s3_environment, tmp_path):
    store = Store.open("s3://not-there-yet", tmp_path)
    _timed(store, BadInput, "bucket not-there-yet does not exist")
    store.check(5, create=True)
    store.check(5)
    assert store.objects.files("") == {}


def test_check_tells_an_unreachable_endpoint(s3_environment, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        _timed(Store.open("s3://ringflow-start", tmp_path), InfrastructureError, "cannot be reached")


def test_check_has_a_deadline_when_the_endpoint_is_silent(s3_environment, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _timed(Store.open("s3://ringflow-start", tmp_path), DeadlineExceeded, "no answer|silent|imed", deadline_s=2)


def test_open_without_a_store_names_the_way_out(monkeypatch):
    monkeypatch.delenv("RINGFLOW_STORE", raising=False)
    with pytest.raises(BadInput, match="ringflow up"):
        Store.open()
    with pytest.raises(BadInput, match="gopher"):
        Store.open("gopher://hole")
