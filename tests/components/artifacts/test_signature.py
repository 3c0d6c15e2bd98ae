"""Signed manifests on directories and on a real S3 server, with keys as openssl makes them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from components.artifacts.committed import MARKER
from components.artifacts.signature import NAME, SIGNING, TRUSTED
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError
from tests.components.artifacts.test_store import identity, lease_for, output, provenance, publish  # noqa: F401


def fresh(store: Store, tmp_path) -> Store:
    """The same storage as another process sees it: nothing is remembered."""
    return Store(store.url, tmp_path / "other-cache")


def make_keys(directory, name):
    key = Ed25519PrivateKey.generate()
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Sets the signing key; the trusted file holds another key, then this one."""
    monkeypatch.delenv(TRUSTED, raising=False)
    private, public = make_keys(tmp_path, "ours")
    _, other = make_keys(tmp_path, "other")
    both = tmp_path / "trusted.pem"
    both.write_bytes(other.read_bytes() + public.read_bytes())
    monkeypatch.setenv(SIGNING, str(private))
    return both, other


def test_what_is_signed_is_read_and_verified(store, output, tmp_path, keys, monkeypatch):  # noqa: F811
    ref = publish(store, output)
    monkeypatch.setenv(TRUSTED, str(keys[0]))
    other = fresh(store, tmp_path)
    assert other.committed("p", "sft", ref.fingerprint) == ref
    assert (other.fetch(ref, "config.json")).read_text() == "{}"
    report = other.verify(ref.uri)
    assert report.ok
    assert len(report.signed_by) == 16


def test_without_a_signature_or_by_another_key_it_is_refused(store, output, tmp_path, keys, monkeypatch):  # noqa: F811
    signed = publish(store, output, lr=1)
    monkeypatch.delenv(SIGNING)
    unsigned = publish(store, output, lr=2)
    assert store.verify(unsigned.uri).signed_by == ""
    monkeypatch.setenv(TRUSTED, str(keys[0]))
    with pytest.raises(IntegrityError, match=f"manifest.json is not signed, and {TRUSTED}"):
        fresh(store, tmp_path).committed("p", "sft", unsigned.fingerprint)
    with pytest.raises(IntegrityError, match="is not signed"):
        fresh(store, tmp_path).fetch(unsigned)
    assert "is not signed" in fresh(store, tmp_path).verify(unsigned.uri).problems[0]
    monkeypatch.setenv(TRUSTED, str(keys[1]))
    with pytest.raises(IntegrityError, match=r"is signed by key [0-9a-f]{16}"):
        fresh(store, tmp_path).fetch(signed)


def test_who_may_write_into_the_storage_cannot_pass_off_other_content(output, tmp_path, keys, monkeypatch):  # noqa: F811
    store = Store(f"file://{tmp_path / 'store'}", tmp_path / "cache")
    ref = publish(store, output)
    root = tmp_path / "store" / "p" / "sft" / ref.fingerprint
    attempt = root / "attempts" / ref.uri.rsplit("/", 1)[1]
    manifest = json.loads((attempt / "manifest.json").read_text())
    (attempt / "files" / "config.json").chmod(0o644)
    (attempt / "files" / "config.json").write_text("[]")
    for entry in manifest["files"]:
        if entry["path"] == "config.json":
            entry["sha256"] = hashlib.sha256(b"[]").hexdigest()
    data = json.dumps(manifest).encode()
    marker = json.loads((root / MARKER).read_text()) | {"manifest_sha256": hashlib.sha256(data).hexdigest()}
    for path, content in ((attempt / "manifest.json", data), (root / MARKER, json.dumps(marker).encode())):
        path.chmod(0o644)
        path.write_bytes(content)
    forged = fresh(store, tmp_path).committed("p", "sft", ref.fingerprint)
    assert fresh(store, tmp_path).fetch(forged, "config.json").read_text() == "[]"  # digests agree: they see nothing
    monkeypatch.setenv(TRUSTED, str(keys[0]))
    with pytest.raises(IntegrityError, match=r"the signature of key [0-9a-f]{16} is not of this manifest"):
        fresh(store, tmp_path).committed("p", "sft", ref.fingerprint)
    (attempt / NAME).chmod(0o644)
    (attempt / NAME).write_text("signed, really")
    with pytest.raises(IntegrityError, match="is not a signature"):
        fresh(store, tmp_path).fetch(forged)


def test_a_bad_key_is_refused_before_anything_is_committed(output, tmp_path, keys, monkeypatch):  # noqa: F811
    store = Store(f"file://{tmp_path / 'store'}", tmp_path / "cache")
    path = tmp_path / "ours.pem"
    path.chmod(0o644)
    with pytest.raises(BadInput, match="others may read"):
        publish(store, output)
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(BadInput, match="not a private key"):
        publish(store, output)
    monkeypatch.setenv(SIGNING, str(tmp_path / "absent"))
    with pytest.raises(BadInput, match="cannot be read"):
        publish(store, output)
    assert store.list("p") == []
    with pytest.raises(BadInput, match="cannot be read"):  # and before that, when a command opens its store
        Store.open(store.url, tmp_path / "cache")
    monkeypatch.delenv(SIGNING)
    ref = publish(store, output)
    monkeypatch.setenv(TRUSTED, str(path))
    with pytest.raises(BadInput, match="no public key"):
        fresh(store, tmp_path).fetch(ref)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_the_commands_of_the_docs_make_keys_that_work(store, output, tmp_path, monkeypatch):  # noqa: F811
    private, public = str(tmp_path / "signing.pem"), str(tmp_path / "public.pem")
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private],
        ["chmod", "600", private],
        ["openssl", "pkey", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(command, check=True, timeout=30, capture_output=True)
    monkeypatch.setenv(SIGNING, private)
    monkeypatch.setenv(TRUSTED, public)
    assert fresh(store, tmp_path).verify(publish(store, output).uri).signed_by
