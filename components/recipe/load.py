"""Reads a recipe: YAML with line numbers, typed overrides, and errors that name the place, the key and the way out.

Everything is checked before anything starts, within milliseconds: an unknown or repeated key, a wrong type, a value out
of range. Types are strict, so `steps: "80"` is an error and not 80. The origin of every value (default, recipe line,
override) is kept, because an audit asks where a number came from. YAML floats follow YAML 1.2: `2e-4` is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.failures import BadInput
from components.recipe.explain import Place, describe
from components.recipe.recipe import Recipe
from components.recipe.secrets import refuse_secrets
from components.redact import redacted

Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (PyYAML reads `2e-4` as text) and with only true/false as booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for _REPLACED in ({"tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"},)
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tTfF"))


@dataclass(frozen=True)
class LoadedRecipe:
    """recipe: the validated values. path: the file. origins: dotted key -> `default`, `file:line` or `--set a.b=c`.

    values: the same dotted keys -> value as JSON has it; lists of plain values stay together.
    text: the file as it was read, without secrets in its comments; it may have changed since.
    """

    recipe: Recipe
    path: Path
    overrides: tuple[str, ...]
    origins: Mapping[str, str]
    values: Mapping[str, Any]
    text: str = ""

    def below(self, prefix: str) -> dict[str, dict[str, Any]]:
        """{key: {"value", "origin"}} of `prefix` and of every key inside it; of the whole recipe when empty."""
        return {
            key: {"value": self.values[key], "origin": origin}
            for key, origin in self.origins.items()
            if not prefix or key == prefix or key.startswith(f"{prefix}.")
        }


def recipe_names(directory: Path) -> list[str]:
    """Names of the recipes in a directory, sorted."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = (), directory: Path | None = None) -> Recipe:
    """The validated recipe. See `read_recipe` for the arguments and the errors."""
    return read_recipe(name_or_path, overrides, directory).recipe


def read_recipe(name_or_path: str | Path, overrides: Iterable[str] = (), directory: Path | None = None) -> LoadedRecipe:
    """Reads and validates a recipe, and keeps the origin of every value.

    Args:
        name_or_path: a name found in `directory`, or a path of a YAML file.
        overrides: `key.path=value`; list items by index (`rlvr.0.steps=3`); the value is typed by YAML.
        directory: where named recipes are.

    Raises:
        BadInput: naming file and line (or the override), the key, and the accepted keys or values.
    """
    path = _find(str(name_or_path), directory)
    shown = _shown(path)
    text = _read(path, shown)
    data, lines = _parse(text, shown)
    places: dict[Key, str] = {key: f"{shown}:{line}" for key, line in lines.items()}
    overrides = tuple(overrides)
    for override in overrides:
        key, value = _apply(data, override)
        for old in [old for old in places if old[: len(key)] == key]:
            del places[old]
        for inner in _keys(value, key):
            places[inner] = f"--set {override}"
    refuse_secrets(data, lambda key: _without_value(Place(shown, places).of(key)))
    try:
        recipe = Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise describe(error, Recipe, data, Place(shown, places)) from None
    found = list(_leaves(recipe, recipe.model_dump(mode="json"), ()))
    origins = {_dotted(key): places.get(key, "default") for key, _ in found}
    return LoadedRecipe(recipe, path, overrides, origins, {_dotted(key): value for key, value in found}, redacted(text))


def _find(name: str, directory: Path | None) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or "/" in name:
        if path.is_file():
            return path
        raise BadInput("no such recipe file", where=name, remedy="Give the path of a YAML file or the name of a recipe")
    if directory is not None and (directory / f"{name}.yaml").is_file():
        return directory / f"{name}.yaml"
    from difflib import get_close_matches

    names = recipe_names(directory) if directory else []
    close = get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise BadInput(
        f"no recipe is called {name!r}",
        remedy=f"{hint}Recipes: {', '.join(names) or 'none'}; or give a path to a .yaml",
    )


def _shown(path: Path) -> str:
    """The path as the user would type it: relative to the working directory when below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _without_value(place: str) -> str:
    return place.partition("=")[0] if place.startswith("--set ") else place


def _read(path: Path, shown: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", where=shown) from None


def _parse(text: str, shown: str) -> tuple[dict[str, Any], dict[Key, int]]:
    lines: dict[Key, int] = {}
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise BadInput("a recipe is a YAML mapping", where=f"{shown}:1", remedy="See flows/recipes for examples")
        data = _build(loader, root, (), lines, shown)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise BadInput(f"not valid YAML: {getattr(error, 'problem', None) or error}", where=where) from None
    finally:
        loader.dispose()
    return data, lines


def _build(loader: _Loader, node: yaml.Node, key: Key, lines: dict[Key, int], shown: str) -> Any:
    """Plain values of a YAML node; the line of every key goes to `lines`."""
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*key, index), lines, shown) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    merged: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name_node, value in node.value:
        if name_node.tag == "tag:yaml.org,2002:merge":
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                merged.update(_build(loader, source, key, lines, shown))
            continue
        name = str(name_node.value)
        line = name_node.start_mark.line + 1
        if name in own:
            raise BadInput(
                f"the key {name!r} stands twice (first on line {lines[(*key, name)]})",
                where=f"{shown}:{line}: {'.'.join(map(str, (*key, name)))}",
                remedy="Keep one of them",
            )
        lines[(*key, name)] = line
        own[name] = _build(loader, value, (*key, name), lines, shown)
    return merged | own


def _apply(data: dict[str, Any], override: str) -> tuple[Key, Any]:
    """Sets one `a.b=value` in `data` and returns its key and the value."""
    where = f"--set {override}"
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise BadInput("an override is written key.path=value", where=where, remedy="For example --set sft.steps=100")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise BadInput(f"the value is not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    target: Any = data
    key: list[str | int] = []
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        at = ".".join(parts[:position]) or "the recipe"
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                raise BadInput(
                    f"{at} has {len(target)} entries, and {part!r} is none of them",
                    where=where,
                    remedy=f"Indexes are 0 to {len(target) - 1}",
                )
            step: str | int = int(part)
        elif isinstance(target, dict):
            step = part
            if not last:
                target.setdefault(step, {})
        else:
            raise BadInput(f"{at} is a single value, it has no {part!r} inside", where=where)
        key.append(step)
        if last:
            target[step] = value
        else:
            if target[step] is None:
                target[step] = {}
            target = target[step]
    return tuple(key), value


def _keys(value: Any, key: Key) -> Iterable[Key]:
    """`key` and the key of everything inside a plain value."""
    yield key
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in parts:
        yield from _keys(item, (*key, name))


def _leaves(value: Any, plain: Any, key: Key) -> Iterable[tuple[Key, Any]]:
    """(key, JSON value) of every field that is no section; a value nobody wrote is there with its default."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), plain[name], (*key, name))
    elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, plain[index], (*key, index))
    else:
        yield key, plain


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
