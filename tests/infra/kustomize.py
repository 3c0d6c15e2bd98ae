"""What `kustomize build` makes of a directory, for what infra/kubernetes uses: resources, JSON patches, images.

No kustomize binary is needed. Anything else in a kustomization is refused, so that nothing is silently not applied.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

KNOWN = {"apiVersion", "kind", "resources", "images", "patches"}


def build(directory: Path) -> list[dict]:
    """The objects of a kustomization; ValueError for what kustomize would refuse, or what is not understood here."""
    plan = yaml.safe_load((directory / "kustomization.yaml").read_text())
    if unknown := set(plan) - KNOWN:
        raise ValueError(f"{directory}: not understood here: {sorted(unknown)}")
    objects: list[dict] = []
    for name in plan["resources"]:
        path = directory / name
        objects += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    identities = [identity(each) for each in objects]
    if doubled := {each for each in identities if identities.count(each) > 1}:
        raise ValueError(f"{directory}: twice: {doubled}")
    for entry in plan.get("patches", ()):
        operations = yaml.safe_load(entry["patch"] if "patch" in entry else (directory / entry["path"]).read_text())
        targets = [each for each in objects if matches(each, entry["target"])]
        if not targets:
            raise ValueError(f"{directory}: a patch for nothing: {entry['target']}")
        for each in targets:
            patch(each, operations)
    for each in plan.get("images", ()):
        rename_image(objects, each["name"], f"{each['newName']}:{each['newTag']}")
    return objects


def identity(item: dict) -> tuple[str, str, str, str]:
    metadata = item["metadata"]
    return item["apiVersion"], item["kind"], metadata.get("namespace", ""), metadata["name"]


def matches(item: dict, target: dict) -> bool:
    group = item["apiVersion"].rpartition("/")[0]
    found = {"kind": item["kind"], "group": group, **item["metadata"]}
    return all(found.get(key) == value for key, value in target.items())


def patch(item: dict, operations: list[dict]) -> None:
    """RFC 6902 `add`, `replace`, `remove`, in place; ValueError where the path does not lead anywhere."""
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        at: Any = item
        try:
            for part in way:
                at = at[int(part) if isinstance(at, list) else part]
            key = int(last) if isinstance(at, list) else last
            if operation["op"] != "add":
                at[key]  # must be there
            if operation["op"] == "remove":
                del at[key]
            elif isinstance(at, list) and operation["op"] == "add":
                at.insert(key, copy.deepcopy(operation["value"]))
            else:
                at[key] = copy.deepcopy(operation["value"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{identity(item)} has no {operation['path']}") from error


def rename_image(node: Any, name: str, new: str) -> None:
    """As kustomize does it: in every `containers` and `initContainers`, of any kind of object."""
    if isinstance(node, list):
        for each in node:
            rename_image(each, name, new)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                for container in value:
                    if container["image"].split("@")[0].rpartition(":")[0] == name:
                        container["image"] = new
            rename_image(value, name, new)
