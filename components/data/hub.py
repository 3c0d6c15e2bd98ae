"""Data sets in Hugging Face's forms: hub ids, repositories on disk with a README of configurations, `save_to_disk`.

Everything ends in plain files that components.data.files reads as streams: the `datasets` library resolves a hub id
(or a local repository) to its files at one commit, and that commit stands in every file's URI, so that a data set that
moves on is another input and never a silent change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from components.failures import BadInput, InfrastructureError

PREFIX = "hf://"
_ID = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?$")
SAVED_SPLIT, SAVED_SPLITS = "state.json", "dataset_dict.json"


def is_pinned(uri: str) -> bool:
    """A file of a data set at a commit, as `hub_files` gives."""
    return re.match(r"hf://datasets/[\w.-]+/[\w.-]+@[0-9a-f]{40}/", uri) is not None


def hub_files(uri: str, subset: str | None, part: str) -> list[str]:
    """Files of one split of a hub id, as hf://datasets/OWNER/NAME@COMMIT/PATH.

    Raises BadInput (no such data set, configuration or split) or InfrastructureError (the hub does not answer).
    """
    found = _ID.match(uri)
    if found is None:
        raise BadInput("not a hub id", where=uri, remedy="Write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return _data_files(found.group(1), subset, part, found.group(2), uri)


def directory_files(root: Path, subset: str | None, part: str) -> list[str] | None:
    """Files of a directory that `datasets` wrote or describes; None for a directory that is only a directory."""
    if (root / SAVED_SPLITS).is_file():
        splits = json.loads((root / SAVED_SPLITS).read_text())["splits"]
        if part not in splits:
            raise BadInput(f"no split {part!r}", where=str(root), remedy=f"part is one of: {', '.join(splits)}")
        root = root / part
    if (root / SAVED_SPLIT).is_file():
        state = json.loads((root / SAVED_SPLIT).read_text())
        if state.get("_indices_data_files"):
            raise BadInput(
                "a data set saved with an index", where=str(root), remedy="Call flatten_indices() before saving it"
            )
        return [str(root / entry["filename"]) for entry in state["_data_files"]]
    readme = root / "README.md"
    if readme.is_file() and re.match(r"---\n(?:.*\n)*?configs:", readme.read_text(errors="replace")):
        return _data_files(str(root), subset, part, None, str(root))
    return None


@contextmanager
def open_file(uri: str) -> Iterator[BinaryIO]:
    """A seekable stream of a pinned file."""
    from huggingface_hub import HfFileSystem

    with _errors(uri), HfFileSystem().open(uri, "rb") as stream:
        yield stream


def _data_files(path: str, subset: str | None, part: str, revision: str | None, where: str) -> list[str]:
    import datasets

    datasets.disable_progress_bars()
    with _errors(where):
        if subset is None:
            names = datasets.get_dataset_config_names(path, revision=revision)
            if len(names) > 1 and "default" not in names:
                raise BadInput(
                    f"{len(names)} configurations", where=where, remedy=f"subset is one of: {', '.join(names)}"
                )
        builder = datasets.load_dataset_builder(path, subset, revision=revision)
    files: dict[Any, list[str]] = builder.config.data_files or {}
    if part not in files:
        known = ", ".join(map(str, files)) or "none"
        raise BadInput(f"no split {part!r}", where=where, remedy=f"part is one of: {known}")
    return [str(file) for file in files[part]]


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """The hub's and the library's errors as ringflow's kinds."""
    import requests
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except (DatasetNotFoundError, RepositoryNotFoundError) as error:
        raise BadInput(
            f"no such data set, or no right to read it: {error}", where=where, remedy="Check the id, or set HF_TOKEN"
        ) from error
    except ValueError as error:
        raise BadInput(str(error), where=where) from error
    except (ConnectionError, requests.RequestException, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise InfrastructureError(f"{where}: the Hugging Face hub does not answer: {error}") from error
