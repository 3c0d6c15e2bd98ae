"""Signed manifests, as an option: Ed25519 over the bytes of manifest.json, in `manifest.sig` beside it.

A manifest has the digest of every file, so its signature is that of the whole artifact. RINGFLOW_SIGNING_KEY_FILE is a
private key (PEM), and everything that is committed gets signed; RINGFLOW_TRUSTED_KEYS_FILE are public keys (PEM, one
after another), and nothing is read that none of them signed. Digests alone find damage; only a signature finds somebody
who may write into the bucket.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.failures import BadInput, IntegrityError

SIGNING, TRUSTED = "RINGFLOW_SIGNING_KEY_FILE", "RINGFLOW_TRUSTED_KEYS_FILE"
NAME = "manifest.sig"
_DOMAIN = b"ringflow manifest 1\n"  # so that a signature of something else is never one of a manifest
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_MAKE = "openssl genpkey -algorithm ed25519 -out signing.pem; openssl pkey -in signing.pem -pubout -out trusted.pem"


class Signature(BaseModel):
    """The content of manifest.sig. key: `key_id` of the signer. signature: base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithm: str = "ed25519"
    key: str
    signature: str


def require_keys() -> None:
    """Raises BadInput for a variable whose file holds no key that can be used, before anything expensive starts."""
    if path := os.environ.get(SIGNING):
        _private(path)
    if path := os.environ.get(TRUSTED):
        trusted(path)


def sign(manifest: bytes) -> bytes | None:
    """The content of manifest.sig, None when RINGFLOW_SIGNING_KEY_FILE is not set. Raises BadInput for a bad key."""
    path = os.environ.get(SIGNING)
    if not path:
        return None
    key = _private(path)
    signed = Signature(key=key_id(key.public_key()), signature=base64.b64encode(key.sign(_DOMAIN + manifest)).decode())
    return (signed.model_dump_json() + "\n").encode()


def check(manifest: bytes, stored: bytes | None, where: str) -> str | None:
    """The id of the trusted key that signed it, None when RINGFLOW_TRUSTED_KEYS_FILE is not set: nothing is asked then.

    Args:
        stored: content of manifest.sig, None when there is none. where: of the manifest, for the message.
    Raises:
        IntegrityError: it is not signed, by no trusted key, or the signature is not of these bytes.
        BadInput: the file of trusted keys holds none.
    """
    path = os.environ.get(TRUSTED)
    if not path:
        return None
    from cryptography.exceptions import InvalidSignature

    keys = trusted(path)
    if stored is None:
        raise IntegrityError(f"{where} is not signed, and {TRUSTED} asks for a signature of one of {', '.join(keys)}")
    try:
        signature = Signature.model_validate_json(stored)
        raw = base64.b64decode(signature.signature, validate=True)
    except (ValidationError, ValueError) as error:
        raise IntegrityError(f"{where}: {NAME} is not a signature: {error}") from None
    if signature.key not in keys:
        raise IntegrityError(f"{where} is signed by key {signature.key}; {TRUSTED} has {', '.join(keys)}")
    try:
        keys[signature.key].verify(raw, _DOMAIN + manifest)
    except InvalidSignature:
        raise IntegrityError(f"{where}: the signature of key {signature.key} is not of this manifest") from None
    return signature.key


def key_id(public: Any) -> str:
    """16 hex digits of a public key's digest."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def trusted(path: str) -> Mapping[str, Any]:
    """{key id: public key} of a file. Raises BadInput when it holds none, or one of another kind."""
    return _trusted(path, _read(path, TRUSTED))


@lru_cache(8)
def _trusted(path: str, data: bytes) -> Mapping[str, Any]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = {}
    for block in _PUBLIC.findall(data):
        try:
            key = load_pem_public_key(block + b"\n")
        except ValueError as error:
            raise BadInput(f"a public key cannot be read: {error}", where=f"{TRUSTED}={path}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise BadInput("a key is not of the kind Ed25519", where=f"{TRUSTED}={path}", remedy=_MAKE)
        keys[key_id(key)] = key
    if not keys:
        raise BadInput("there is no public key in it", where=f"{TRUSTED}={path}", remedy=_MAKE)
    return keys


def _private(path: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where, data = f"{SIGNING}={path}", _read(path, SIGNING)
    if Path(path).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput("others may read the private key", where=where, remedy=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise BadInput(f"not a private key without a password: {error}", where=where, remedy=_MAKE) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput("the key is not of the kind Ed25519", where=where, remedy=_MAKE)
    return key


def _read(path: str, variable: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=f"{variable}={path}", remedy=_MAKE) from None
