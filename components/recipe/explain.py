"""Turns a pydantic error into one BadInput a person can act on: the place, the key, what is accepted, a near miss."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from components.failures import BadInput

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """file: shown when a key has no line. lines: key -> `file:line` or `--set ...`."""

    file: str
    lines: Mapping[Key, str]

    def of(self, key: Key) -> str:
        for length in range(len(key), -1, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return self.file


def describe(error: ValidationError, root: type[BaseModel], data: Any, place: Place) -> BadInput:
    """One BadInput for every problem of a validation: the first in full, the others in short."""
    texts: dict[Key, tuple[str, str]] = {}
    for item in error.errors():
        key, model = _resolve(item["loc"], root, data)
        if key is None:
            continue
        if item["type"] == "union_tag_invalid":
            key = (*key, item["ctx"]["discriminator"].strip("'"))
        if key in texts:
            continue
        texts[key] = _text(item, key, model)
    for key in [key for key in texts if any(other != key and other[: len(key)] == key for other in texts)]:
        del texts[key]  # a list is called too short when what is wrong is an item of it
    found = sorted(texts.items(), key=lambda pair: pair[1][0].startswith("missing"))
    (key, (problem, remedy)), others = found[0], found[1:]
    if others:
        also = "; ".join(f"{place.of(k)}: {_dotted(k)}: {p}" for k, (p, _) in others[:4])
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        remedy = f"{remedy}\nAlso: {also}{more}" if remedy else f"Also: {also}{more}"
    return BadInput(problem, where=f"{place.of(key)}: {_dotted(key)}", remedy=remedy)


def accepted_keys(model: type[BaseModel] | None) -> list[str]:
    return list(model.model_fields) if model else []


def _dotted(key: Key) -> str:
    return ".".join(map(str, key)) or "recipe"


def _text(item: Mapping[str, Any], key: Key, model: type[BaseModel] | None) -> tuple[str, str]:
    kind, given = item["type"], item.get("input")
    keys = accepted_keys(model)
    listed = f"Accepted keys: {', '.join(keys)}" if keys else ""
    if kind == "extra_forbidden":
        close = get_close_matches(str(key[-1]), keys, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        return f"unknown key {str(key[-1])!r}", hint + listed
    if kind == "missing":
        return "missing key", listed
    message = item["msg"][0].lower() + item["msg"][1:]
    if kind == "literal_error":
        options = [part.strip(" '") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        close = get_close_matches(str(given), options, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else ""
        return f"{given!r} is not accepted: {message}", hint
    if kind == "union_tag_invalid":
        given, expected = item["ctx"]["tag"], item["ctx"]["expected_tags"]
        close = get_close_matches(given, [tag.strip(" '") for tag in expected.split(",")], n=1)
        return f"{given!r} is not accepted: it is one of {expected}", f"Did you mean {close[0]!r}?" if close else ""
    if kind == "union_tag_not_found":
        return f"the key {item['ctx']['discriminator']} is missing, it says which keys are accepted here", ""
    shown = repr(given)
    return f"{message}, not {shown if len(shown) < 80 else shown[:77] + '...'}", ""


def _resolve(loc: Key, root: type[BaseModel], data: Any) -> tuple[Key | None, type[BaseModel] | None]:
    """(key in the data, model that holds its last part); (None, None) for a union member the data did not mean.

    pydantic puts the name or tag of a union member into `loc`; the recipe has no such key.
    """
    key: list[str | int] = []
    annotation: Any = root
    holder: type[BaseModel] | None = root
    value = data
    for part in loc:
        members = _members(annotation)
        models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        if len(models) > 1:
            chosen = next((m for m in models if m.__name__ == part or part in _tags(m)), None)
            if chosen is not None and not (isinstance(value, Mapping) and part in value):
                if _meant(models, value) not in (None, chosen):
                    return None, None
                annotation = chosen
                continue
        if isinstance(part, int):
            annotation = _item(members)
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif inside := [get_args(m)[1] for m in members if get_origin(m) is dict]:
            annotation = inside[0]
            value = value.get(part) if isinstance(value, Mapping) else None
        else:
            holder = models[0] if models else holder
            field = holder.model_fields.get(part) if models and holder else None
            annotation = field.annotation if field else Any
            value = value.get(part) if isinstance(value, Mapping) else None
        key.append(part)
    return tuple(key), holder


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in _members(arg)]
    return [annotation]


def _item(members: list[Any]) -> Any:
    for member in members:
        if get_origin(member) in (tuple, list):
            return get_args(member)[0]
    return Any


def _tags(model: type[BaseModel]) -> set[str]:
    """Values of the field that tells union members apart."""
    for name in ("kind", "name"):
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return set(get_args(field.annotation))
    return set()


def _meant(models: list[type[BaseModel]], value: Any) -> type[BaseModel] | None:
    """The union member the data names by its kind, else the one that knows most of its keys."""
    if not isinstance(value, Mapping):
        return None
    given = {value.get("kind"), value.get("name")} - {None}
    for model in models:
        if given & _tags(model):
            return model
    return max(models, key=lambda model: len(set(value) & set(model.model_fields)))
