"""Decontaminates a user's own files without a pipeline: rows in, the kept rows out, unchanged and in order.

No layout is needed: every string inside a row is searched (except where it came from), so a file of any shape can be
cleaned. A benchmark row must say which text is its question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.data.decontaminate.engine import TextRecord, decontaminate
from components.data.decontaminate.evidence import write_evidence
from components.data.decontaminate.report import write_report
from components.data.layouts import MESSAGE_KEYS, PROBLEM_KEYS, PROMPT_KEYS, ROLES, shown
from components.data.sources import Quarantined, expand, raw_rows, read_bytes, write_quarantine
from components.failures import BadInput
from components.recipe.data import DecontaminateConfig

QUESTION_KEYS = (*PROBLEM_KEYS, *PROMPT_KEYS, *MESSAGE_KEYS, "text", "content")
# Where a record comes from is no training text.
UNSEARCHED = frozenset({"id", "source", "licence", "license", "url", "uri", "task_id", "uid"})


def clean_files(
    corpora: Sequence[str], benchmarks: Sequence[str], out_dir: Path, config: DecontaminateConfig | None = None
) -> dict[str, Any]:
    """Writes clean.jsonl, evidence.parquet, report.html, counts.json and quarantine.jsonl into `out_dir`.

    Args:
        corpora: files, globs or directories (plain, file:// or s3://); order is kept.
        benchmarks: the same; each file is a benchmark named after it.

    Returns:
        {"records", "kept", "removed", "review", "template", "malformed", "index_fingerprint", "files": {uri: {...}},
        "benchmarks": {name: {...}}}, all JSON-ready.

    Raises:
        BadInput: no such file, no readable record, or a benchmark row without a question. Nothing is written then.
    """
    config = config or DecontaminateConfig()
    index = {}
    for uri in (found for pattern in benchmarks for found in expand(pattern)):
        name = _stem(uri)
        if name in index:
            raise BadInput(f"two benchmarks are named {name}", where=uri, remedy="Rename one of the files")
        index[name] = list(_benchmark_rows(uri))
    if not index:
        raise BadInput("no benchmark was named", remedy="Give at least one with --benchmark")
    records: dict[str, list[TextRecord]] = {}
    lines: dict[str, list[str]] = {}
    quarantine: list[Quarantined] = []
    for uri in dict.fromkeys(found for pattern in corpora for found in expand(pattern)):
        records[uri], lines[uri] = _corpus_rows(uri, quarantine)
    if not records:
        raise BadInput("no corpus was named", remedy="Give at least one file")
    result = decontaminate(records, index, config)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / "clean.jsonl").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        for uri, kept in result.kept.items():
            for record in kept:
                stream.write(lines[uri][int(record.id.rpartition("#")[2])])
                stream.write("\n")
    write_evidence(out_dir / "evidence.parquet", result.findings)
    write_report(out_dir / "report.html", result, config)
    write_quarantine(out_dir / "quarantine.jsonl", quarantine)
    counts = {
        **{
            key: sum(result.counts[uri][key] for uri in records)
            for key in ("records", "kept", "removed", "review", "template")
        },
        "malformed": len(quarantine),
        "index_fingerprint": result.fingerprint,
        "files": {uri: result.counts[uri] for uri in records},
        "benchmarks": result.counts["benchmarks"],
        "semantic": result.counts["semantic"],
    }
    (out_dir / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return counts


def _stem(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2].partition(".")[0]


def _corpus_rows(uri: str, quarantine: list[Quarantined]) -> tuple[list[TextRecord], list[str]]:
    """(records, the line of each as it is written again). Record ids are `<uri>#<position>`."""
    content = read_bytes(uri)
    verbatim = uri.endswith((".jsonl", ".ndjson"))
    originals = content.split(b"\n") if verbatim else []
    records, lines = [], []
    for number, row, problem in raw_rows(uri, content):
        if problem is not None:
            quarantine.append(Quarantined(uri, number, problem[0], problem[1], ""))
            continue
        original = originals[number - 1].rstrip(b"\r") if verbatim else b""
        line = (
            original.decode("utf-8", "surrogateescape")
            if verbatim
            else json.dumps(row, ensure_ascii=False, default=str)
        )
        records.append(TextRecord(f"{uri}#{len(lines)}", tuple(_strings(row))))
        lines.append(line)
    if not records:
        raise BadInput("holds no readable record", where=uri, remedy="Expected JSON lines, Parquet or CSV")
    return records, lines


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of every string inside a row, in order."""
    if isinstance(value, str):
        if value[:2] in ("[{", '{"'):  # lists stored as JSON strings
            try:
                yield from _strings(json.loads(value), path)
                return
            except ValueError:
                pass
        if value.strip():
            yield path or "text", value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in UNSEARCHED and key not in ("role", "from"):
                yield from _strings(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from _strings(part, f"{path}[{position}]")


def _benchmark_rows(uri: str) -> Iterator[TextRecord]:
    for number, row, problem in raw_rows(uri, read_bytes(uri)):
        if problem is not None:
            raise BadInput(problem[1], where=f"{uri}:{number}: {problem[0]}", remedy="Correct or remove the item")
        text = _question(row)
        if not text:
            raise BadInput(
                f"no question in the benchmark item {shown(row)}",
                where=f"{uri}:{number}",
                remedy=f"Name its text by one of: {', '.join(dict.fromkeys(QUESTION_KEYS))}",
            )
        yield TextRecord(
            f"{number}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}", (("question", text),)
        )


def _question(row: dict[str, Any]) -> str:
    for key in QUESTION_KEYS:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and value and isinstance(value[0], dict):
            turns = [turn for turn in value if ROLES.get(turn.get("role", turn.get("from"))) == "user"]
            text = "\n".join(str(turn.get("content", turn.get("value", ""))) for turn in turns)
            if text.strip():
                return text
    return ""
