"""Records as JSON lines: typed reading and writing, and the identity of a record.

Reading streams, so memory does not grow with the file; a line that does not fit its class is a BadInput that names
file, line and field. Writing goes through pydantic's own serialiser, field order fixed by the class, so equal records
are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.data.schema import (
    BenchmarkItem,
    PreferenceRecord,
    PretrainRecord,
    Record,
    RlRecord,
    SftRecord,
)
from components.failures import BadInput

R = TypeVar("R", bound=BaseModel)

SPLITS: Mapping[str, type[Record]] = {
    "pretrain": PretrainRecord,
    "sft": SftRecord,
    "rl": RlRecord,
    "preference": PreferenceRecord,
    "preference_heldout": PreferenceRecord,
}
IDENTITY_FREE = ("id", "source", "licence", "row", "transformations", "solution")


def record_id(payload: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of the content; where a record came from does not change its identity.

    `payload` is JSON-ready (`record.model_dump(mode="json")`); the keys of IDENTITY_FREE are left out.
    """
    content = {key: value for key, value in payload.items() if key not in IDENTITY_FREE}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def field_path(location: tuple[int | str, ...]) -> str:
    """`prompt[0].content` from pydantic's location tuple."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "record"


def first_problem(error: ValidationError) -> tuple[str, str]:
    """(field, reason) of the first thing pydantic objects to."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return field_path(problem["loc"]), problem["msg"]


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Streams the records of one file, in order. Raises BadInput at the first line that is not a `kind`."""
    if not Path(path).is_file():
        raise BadInput("no such file", where=str(path), remedy=f"Expected JSON lines of {kind.__name__}")
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                field, reason = first_problem(error)
                raise BadInput(
                    f"not a {kind.__name__}: {reason}",
                    where=f"{path}:{number}: {field}",
                    remedy="Correct or remove the record",
                ) from None


def write_records(path: Path, records: Iterable[BaseModel]) -> int:
    """Writes one record a line, making the folder when absent. Returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(record.model_dump_json())
            stream.write("\n")
            count += 1
    return count


def read_corpus(directory: Path) -> dict[str, list[Record]]:
    """Every split of an artifact's data/ folder (absent files are absent splits), fully in memory."""
    data = Path(directory) / "data"
    return {
        split: list(read_records(data / f"{split}.jsonl", kind))
        for split, kind in SPLITS.items()
        if (data / f"{split}.jsonl").is_file()
    }


def read_benchmarks(directory: Path) -> dict[str, list[BenchmarkItem]]:
    """Every benchmark of an artifact, by name, in name order."""
    return {
        path.stem: list(read_records(path, BenchmarkItem))
        for path in sorted((Path(directory) / "benchmarks").glob("*.jsonl"))
    }


def write_corpus(
    directory: Path, data: Mapping[str, Iterable[Record]], benchmarks: Mapping[str, Iterable[BenchmarkItem]]
) -> dict[str, int]:
    """Writes data/*.jsonl and benchmarks/*.jsonl. Returns records per split and `benchmark:<name>`."""
    counts = {split: write_records(Path(directory) / "data" / f"{split}.jsonl", rows) for split, rows in data.items()}
    for name, items in benchmarks.items():
        counts[f"benchmark:{name}"] = write_records(Path(directory) / "benchmarks" / f"{name}.jsonl", items)
    return counts
