"""Fingerprints: what a stage computes, as 64 hex digits. Equal identity, equal fingerprint, on any machine and day.

A fingerprint is the SHA-256 of the canonical JSON of {stage, version, config, inputs, seed}. Execution settings are not
in it, so moving a run to other hardware reuses what exists. Whatever cannot be written the same way every time (a
callable, a set of mixed things, an object known only by its repr) is refused: a wrong reuse is worse than no reuse.
The idea, and the habit of raising, come from marin's `execution/fingerprint.py`; what differs between two identities is
told by `explain_difference`, which `ringflow plan` prints as the reason of a MISS.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from components.failures import BadInput

# Marks a pydantic field (json_schema_extra) that came when results existed: while it is None it is not in an identity.
# components.recipe.base has the same word; neither imports the other.
LATER = "later"
# 2**53: beyond it other JSON readers silently round integers; identities must survive any reader.
LARGEST_EXACT_INTEGER = 2**53


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, shortest float form.

    Takes None, bool, int, finite float, str, enum members, pydantic models, mappings with str keys, lists, tuples and
    sets of str or of int. Raises BadInput that names the dotted path of anything else.
    """
    return json.dumps(
        _plain(value, ""), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def identity_of(stage: str, version: int, config: Any, inputs: Mapping[str, str], seed: int) -> dict[str, Any]:
    """The full hashed identity, as plain JSON values; kept in the manifest so that differences can be explained.

    Args:
        stage: type of the stage (not the node's name: two nodes with equal work share one result).
        version: the stage's own version.
        config: identity configuration, a pydantic model or plain values.
        inputs: input name -> the input's identity, `<fingerprint>:<manifest sha256>` (see input_identity).
        seed: root seed of the stage.
    """
    identity = {"stage": stage, "version": version, "config": config, "inputs": dict(inputs), "seed": seed}
    return _plain(identity, "")


def input_identity(fingerprint_: str, manifest_sha256: str) -> str:
    """How an input enters the identity of its consumer: what it was to be, and which bytes it became."""
    return f"{fingerprint_}:{manifest_sha256}"


def fingerprint(stage: str, version: int, config: Any, inputs: Mapping[str, str], seed: int) -> str:
    """64 hex digits; arguments as for identity_of."""
    return fingerprint_of(identity_of(stage, version, config, inputs, seed))


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """64 hex digits of an identity made by identity_of."""
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def explain_difference(old_identity: Mapping[str, Any], new_identity: Mapping[str, Any]) -> list[str]:
    """One line per differing field, `config.section.steps: 100 -> 200`; empty when the identities are equal."""
    return _differences(_plain(old_identity, ""), _plain(new_identity, ""), "")


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value, path)
    if value is None or isinstance(value, (bool, str)):
        return _text(value, path) if isinstance(value, str) else value
    if isinstance(value, int):
        if abs(value) > LARGEST_EXACT_INTEGER:
            raise _refused(value, path, "integers beyond 2^53 are not exact in every JSON reader; give it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(value, path, "only finite numbers have an identity")
        # -0.0 equals 0.0, so a config that compares equal must hash equal.
        return float(value) + 0.0
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
        for name, field in type(value).model_fields.items():
            if fields[name] is None and isinstance(extra := field.json_schema_extra, dict) and extra.get(LATER):
                del fields[name]
        return {name: _plain(item, _join(path, name)) for name, item in fields.items()}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or isinstance(key, enum.Enum):
                raise _refused(key, path, "keys must be plain text")
        return {_text(key, path): _plain(item, _join(path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        if not (all(type(item) is str for item in value) or all(type(item) is int for item in value)):
            raise _refused(value, path, "a set has an identity only when all its members are text or all integers")
        return sorted(value)
    if isinstance(value, PurePath):
        raise _refused(value, path, "a path says where, not what; use the content's digest")
    raise _refused(value, path, "give plain values, enums or pydantic models")


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refused(value, path, "the text holds a lone surrogate") from error
    return str(value)


def _refused(value: Any, path: str, remedy: str) -> BadInput:
    return BadInput(
        f"{type(value).__name__} {ascii(value)[:80]} has no deterministic identity",
        where=path or "identity",
        remedy=remedy[0].upper() + remedy[1:],
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            place = _join(path, key)
            if key not in old:
                lines.append(f"{place}: absent -> {_shown(new[key])}")
            elif key not in new:
                lines.append(f"{place}: {_shown(old[key])} -> absent")
            else:
                lines += _differences(old[key], new[key], place)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for line in _differences(left, right, f"{path}[{index}]")
        ]
    # 1 == 1.0 == True in Python, but their canonical JSON differs, and so do the fingerprints.
    if canonical_json(old) == canonical_json(new):
        return []
    return [f"{path}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) >= 64 and all(c in "0123456789abcdef:" for c in value):
        return ":".join(part[:12] for part in value.split(":"))
    text = canonical_json(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
