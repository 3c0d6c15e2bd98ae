"""The licence report: how many packages have which licence, and what somebody should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from infra.bom.installed import Package


def report(found: Sequence[Package], root: str) -> dict[str, Any]:
    """packages: how many, `root` left out. licences: {licence: packages}, the most frequent first.

    copyleft: packages whose licence may reach what is shipped with them. unclear: those whose licence is no SPDX
    expression, in their own words. unknown: those that declare none. unlocked: those without hashes in the lock.
    """
    others = [package for package in found if package.name != root]
    counts = Counter(package.licence.text or "unknown" for package in others)
    unknown = [package for package in others if not package.licence.known]
    return {
        "packages": len(others),
        "licences": dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))),
        "copyleft": {_named(p): p.licence.text for p in others if p.licence.copyleft},
        "unclear": {_named(p): p.licence.text for p in others if p.licence.known and not p.licence.spdx},
        "unknown": {_named(p): list(p.files) for p in unknown},
        "unlocked": [_named(package) for package in others if not package.sha256],
    }


def _named(package: Package) -> str:
    return f"{package.name} {package.version}"
