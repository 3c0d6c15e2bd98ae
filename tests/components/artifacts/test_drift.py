"""An artifact whose bytes, place or identity no longer match what was recorded is refused, with both values shown."""

from __future__ import annotations

import json

import pytest

from components.artifacts.committed import MARKER
from components.artifacts.digest import bytes_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.store import Store
from components.failures import IntegrityError
from tests.components.artifacts.test_store import identity, provenance

DIFF = b"-x = 1\n+x = 2\n"


@pytest.fixture
def directory_store(tmp_path) -> Store:
    opened = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    opened.check(5, create=True)
    return opened


@pytest.fixture
def committed(directory_store, tmp_path):
    """(ref, directory of its fingerprint) of an artifact with one record."""
    who = identity(lr=0.1)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "weights").write_bytes(b"12345678")
    with Lease.acquire(directory_store, "p", "sft", fingerprint_of(who), wait_s=5) as lease:
        ref = directory_store.publish(
            lease, tmp_path / "output", "checkpoint", who, provenance(), records={"git.diff": DIFF}
        )
    return ref, tmp_path / "store" / "p" / "sft" / ref.fingerprint


def attempt(place):
    return next((place / "attempts").iterdir())


def rewrite(place, change) -> str:
    """Changes the manifest and makes the marker agree with it, as someone who knows the layout could."""
    path = attempt(place) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    marker = json.loads((place / MARKER).read_text())
    digest = bytes_sha256(path.read_bytes())
    (place / MARKER).write_text(json.dumps(marker | {"manifest_sha256": digest}))
    return digest


def test_a_file_of_another_size_is_refused_when_it_is_reused(directory_store, committed):
    ref, place = committed
    directory_store.check_sizes(ref)
    (attempt(place) / "files" / "weights").write_bytes(b"123")
    with pytest.raises(IntegrityError, match="weights has 3 bytes, recorded 8"):
        directory_store.check_sizes(ref)
    (attempt(place) / "files" / "weights").unlink()
    with pytest.raises(IntegrityError, match="weights has no bytes, recorded 8"):
        directory_store.check_sizes(ref)
    (attempt(place) / "files" / "weights").write_bytes(b"12345678")
    (attempt(place) / "files" / "more").write_bytes(b"")
    with pytest.raises(IntegrityError, match="more is not in the manifest"):
        directory_store.check_sizes(ref)


def test_changed_bytes_are_refused_with_both_digests(directory_store, committed):
    ref, place = committed
    (attempt(place) / "files" / "weights").write_bytes(b"12345679")
    found, recorded = bytes_sha256(b"12345679"), bytes_sha256(b"12345678")
    with pytest.raises(IntegrityError, match=f"weights has sha256 {found}, recorded {recorded}"):
        directory_store.fetch(ref)
    assert directory_store.verify(ref.uri).problems == [
        f"wrong content: weights has sha256 {found}, recorded {recorded}"
    ]


def test_a_changed_manifest_is_refused_with_both_digests(directory_store, committed):
    ref, place = committed
    path = attempt(place) / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(IntegrityError, match=f"sha256 is {bytes_sha256(path.read_bytes())}, recorded"):
        directory_store.committed("p", "sft", ref.fingerprint)


def test_another_identity_is_refused_though_marker_and_manifest_agree(directory_store, committed):
    ref, place = committed
    other = identity(lr=0.2)
    rewrite(place, lambda manifest: manifest.update(identity=other))
    with pytest.raises(IntegrityError, match=f"fingerprint {fingerprint_of(other)}, its place is {ref.fingerprint}"):
        directory_store.committed("p", "sft", ref.fingerprint)
    rewrite(place, lambda manifest: manifest.update(identity=identity(lr=0.1), fingerprint="f" * 64))
    with pytest.raises(IntegrityError, match=f"fingerprint {'f' * 64}, its place is {ref.fingerprint}"):
        directory_store.committed("p", "sft", ref.fingerprint)


def test_records_are_verified_like_files(directory_store, committed):
    ref, place = committed
    assert directory_store.record(ref, "git.diff") == DIFF
    assert directory_store.record(ref, "nothing") is None
    assert directory_store.verify(ref.uri).files == 2
    (attempt(place) / "records" / "git.diff").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=f"has sha256 {bytes_sha256(b'other')}, recorded {bytes_sha256(DIFF)}"):
        directory_store.record(ref, "git.diff")
    assert not directory_store.verify(ref.uri).ok
    (attempt(place) / "records" / "git.diff").unlink()
    with pytest.raises(IntegrityError, match=r"git\.diff is missing"):
        directory_store.record(ref, "git.diff")
