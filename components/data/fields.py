"""The field map of a recipe: original records -> records with the names that every layout knows.

A path goes down through objects and lists (`meta.turns[0].text`), a template joins several (`{instruction}\\n{input}`).
A path that is missing makes the record malformed, unless it ends in `?`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from components.data.row import LeftOut, Malformed, shown
from components.failures import BadInput
from components.recipe.data import FieldMap

_STEP = re.compile(r"([^.\[\]]+)|\[(-?\d+)\]")
_HOLE = re.compile(r"\{([^{}]+)\}")
_MISSING = object()


def mapped(row: Mapping[str, Any], fields: FieldMap) -> dict[str, Any]:
    """The record under the names of `fields`. Raises Malformed naming the path."""
    found: dict[str, Any] = {}
    for name, path in fields.named().items():
        value = _template(row, path) if _HOLE.search(path) else _value(row, path)
        if value is not None:
            found[name] = value
    for name in ("license", "licence"):  # kept wherever it stands, unless it is mapped
        if "licence" not in found and isinstance(row.get(name), str):
            found["licence"] = row[name]
    return found


def check_where(row: Mapping[str, Any], where: Mapping[str, Any]) -> None:
    """Raises LeftOut for a record whose values are others than the recipe asks for."""
    for path, wanted in where.items():
        value = lookup(row, path)
        if value is _MISSING or value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            raise LeftOut(f"{path} is not {wanted!r}")


def check_fields(rows: list[Mapping[str, Any]], fields: FieldMap, where: str) -> None:
    """Raises BadInput when a path of the map is in none of the first records: a slip in the recipe, not in the data."""
    for name, path in fields.named().items():
        paths = _HOLE.findall(path) or [path]
        for part in paths:
            if part.endswith("?") or any(lookup(row, part) is not _MISSING for row in rows):
                continue
            known = sorted({key for row in rows for key in row})
            close = get_close_matches(part.split(".")[0].split("[")[0], known, n=1)
            raise BadInput(
                f"fields.{name} names {part!r}, which none of the first {len(rows)} records has; "
                f"first record: {shown(rows[0])}",
                where=where,
                remedy=(f"Did you mean {close[0]!r}? " if close else "") + f"Fields there: {', '.join(known)}",
            )


def lookup(row: Any, path: str) -> Any:
    """The value at a path, or the marker _MISSING."""
    value = row
    for name, index in _STEP.findall(path.removesuffix("?")):
        if index:
            if not isinstance(value, list) or not -len(value) <= int(index) < len(value):
                return _MISSING
            value = value[int(index)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        else:
            return _MISSING
    return value


def _value(row: Mapping[str, Any], path: str) -> Any:
    value = lookup(row, path)
    if value is _MISSING:
        if path.endswith("?"):
            return None
        raise Malformed(path, "is missing")
    return value


def _template(row: Mapping[str, Any], template: str) -> str:
    def fill(hole: re.Match[str]) -> str:
        value = _value(row, hole.group(1))
        return "" if value is None else str(value)

    return _HOLE.sub(fill, template).strip()
