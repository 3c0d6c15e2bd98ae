"""A bill of materials as CycloneDX 1.6 JSON. The same environment gives the same bytes: no clock, no random serial."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from infra.bom.installed import Package
from infra.bom.licences import IDENTIFIERS

SPEC_VERSION = "1.6"


def document(found: Sequence[Package], root: str) -> dict[str, Any]:
    """root: name of the package that the others are installed for; it is described as the application."""
    components = [component(package) for package in found]
    subject = next((c for c in components if c["name"] == root), {"type": "application", "name": root})
    body = {
        "metadata": {
            "component": {**subject, "type": "application"},
            "properties": [{"name": "ringflow:hashes", "value": "sha256 of every file the lock accepts"}],
        },
        "components": [c for c in components if c["name"] != root],
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        **body,
    }


def component(package: Package) -> dict[str, Any]:
    """One library; without `hashes` when the lock does not have it, without `licenses` when it declares none."""
    purl = f"pkg:pypi/{package.name}@{quote(package.version, safe='.')}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    }
    if package.sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in package.sha256]
    licence = package.licence
    if licence.known:
        found["licenses"] = [_licence(licence.text, licence.spdx)]
    return found


def _licence(text: str, spdx: bool) -> dict[str, Any]:
    if text in IDENTIFIERS:
        return {"license": {"id": text, "acknowledgement": "declared"}}
    if spdx:
        return {"expression": text, "acknowledgement": "declared"}
    return {"license": {"name": text, "acknowledgement": "declared"}}


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
