"""Rows of a user's own files as lines that can be written again, and the texts inside a row, whatever its layout.

JSON lines (plain, .gz, .zst) keep their bytes; rows of Parquet, CSV and JSON arrays become one JSON line each. Files
are read as streams: memory does not grow with them (JSON arrays alone are read whole).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from components.data.files import opened
from components.data.layouts import MESSAGE_KEYS, PROBLEM_KEYS, PROMPT_KEYS, ROLES, shown
from components.data.parsers import SOLUTION_KEYS
from components.failures import BadInput

QUESTION_KEYS = tuple(dict.fromkeys((*PROBLEM_KEYS, *PROMPT_KEYS, *MESSAGE_KEYS, "text", "content", "document")))
# Where a record comes from is no training text.
UNSEARCHED = frozenset({"id", "source", "licence", "license", "url", "uri", "task_id", "uid"})
PARQUET_ROWS = 512
# Lists of numbers from this size on are a text of their own: the grids of ARC.
FEWEST_NUMBERS = 16
# An answer of so many words is a worked solution.
SOLUTION_WORDS = 8

Line = tuple[int, bytes]


def lines(uri: str) -> Iterator[Line]:
    """(line or row number from 1, one JSON record without its line end); blank lines are left out.

    Raises BadInput for a file that is not there or not what its name says.
    """
    name = uri.removesuffix(".gz").removesuffix(".zst")
    try:
        with opened(uri.removeprefix("file://")) as stream:
            if name.endswith(".parquet"):
                yield from _parquet(stream)
            elif name.endswith(".csv"):
                text = io.TextIOWrapper(_plain(stream, uri), "utf-8-sig", "replace", newline="")
                yield from ((number, _dump(row)) for number, row in enumerate(csv.DictReader(text), 2))
            else:
                yield from _json(_plain(stream, uri), name)
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise BadInput(f"cannot be read: {error}", where=uri, remedy="Is the file what its name says?") from error


def parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """(row, empty), or (None, why the line is no record)."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # NaN, lone surrogates and large numbers, which Python reads
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return None, f"not JSON: {error}"
    return (row, "") if isinstance(row, dict) else (None, f"a JSON {type(row).__name__}, not an object")


def _plain(stream: BinaryIO, uri: str) -> BinaryIO:
    if uri.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), 1 << 20)
    if uri.endswith(".zst"):
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True), 1 << 20)
    return stream


def _json(stream: BinaryIO, name: str) -> Iterator[Line]:
    first = stream.readline()
    if name.endswith(".json") and first.lstrip().startswith(b"["):
        yield from ((number, _dump(row)) for number, row in enumerate(json.loads(first + stream.read()), 1))
        return
    number, line = 1, first.removeprefix(b"\xef\xbb\xbf")
    while line:
        if line.strip():
            yield number, line.rstrip(b"\r\n")
        line, number = stream.readline(), number + 1


def _parquet(stream: BinaryIO) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a Parquet file: {error}") from None
    rows = (row for batch in table.iter_batches(PARQUET_ROWS) for row in batch.to_pylist())
    yield from ((number, _dump(row)) for number, row in enumerate(rows, 1))


def _dump(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape")


def texts(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(path, text) of every text inside a row, in order."""
    found: list[tuple[str, str]] = []
    _collect(value, path, found)
    return found


def _collect(value: Any, path: str, found: list[tuple[str, str]]) -> None:
    if isinstance(value, str):
        if value[:2] in ("[{", '{"'):  # lists stored as JSON strings
            try:
                _collect(orjson.loads(value), path, found)
                return
            except ValueError:
                pass
        if value and not value.isspace():
            found.append((path or "text", value))
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in UNSEARCHED and key not in ("role", "from"):
                _collect(part, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list) and value:
        numbers = _numbers(value)
        if numbers is not None:
            if len(numbers) >= FEWEST_NUMBERS:
                found.append((path, " ".join(numbers)))
            return
        for position, part in enumerate(value):
            _collect(part, f"{path}[{position}]", found)


def _numbers(value: Any) -> list[str] | None:
    """The numbers of a list of lists (or objects) of nothing but numbers; None for any other."""
    flat: list[str] = []
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += reversed(part)
        elif isinstance(part, dict):
            waiting += reversed(list(part.values()))
        elif isinstance(part, int | float):
            flat.append(str(part))
        else:
            return None
    return flat


def benchmark_parts(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    """(("question", text), possibly ("solution", text)) of a benchmark row. Raises BadInput when it has no question."""
    key, question = _question(row)
    if not question:
        raise BadInput(
            f"no question in the benchmark item {shown(row)}",
            where=where,
            remedy=f"Name its text by one of: {', '.join(QUESTION_KEYS)}",
        )
    return (("question", question), *_solution(row, key, question))


def _question(row: dict[str, Any]) -> tuple[str, str]:
    named = [key for key in QUESTION_KEYS if key in row]
    named += [key for key in row if key not in named and any(key.endswith(f"_{name}") for name in QUESTION_KEYS)]
    for key in named:
        text = _text(row[key])
        if text.strip():
            return key, text
    # Grids of ARC: the examples are the question.
    return next(((key, text) for key, text in texts({k: v for k, v in row.items() if isinstance(v, list)})), ("", ""))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        turns = [turn for turn in value if ROLES.get(turn.get("role", turn.get("from"))) == "user"]
        return "\n".join(str(turn.get("content", turn.get("value", ""))) for turn in turns)
    return ""


def _solution(row: dict[str, Any], asked: str, question: str) -> Iterator[tuple[str, str]]:
    """A worked solution or program of a benchmark row, where it is stored."""
    for key in SOLUTION_KEYS:
        value = row.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if key != asked and isinstance(value, str) and value.strip():
            # HumanEval stores the body only; the program begins in the prompt.
            yield "solution", question + value if key == "canonical_solution" else value
            return
    answer = row.get("answer")
    if asked != "answer" and isinstance(answer, str) and len(answer.split()) >= SOLUTION_WORDS:
        yield "solution", answer
