"""From the files of a source to records: streamed, on any number of workers, with the same result.

A worker turns one block of a file into results: a record as its JSON line with the facts the gates need, a quarantined
record, or the reason why a well-formed one is left out. Nothing is dropped silently. The caller gets the results in the
order of the files, and after a file's last result its entry for sources.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from components.data.fields import check_where, mapped
from components.data.files import BLOCK_BYTES, Block, read_block, scan
from components.data.layouts import LAYOUTS
from components.data.parallel import ordered
from components.data.prompt_filters import filter_prompt
from components.data.records import Origin, to_records
from components.data.row import LeftOut, Malformed
from components.data.schema import Record, RlRecord
from components.data.sources import Quarantined, SourceEntry, files_of_source, layout_of, purpose_of
from components.recipe.data import BenchmarkSource, FieldMap, FileSource, PromptFilterConfig

SHOWN = 400


@dataclass(frozen=True)
class Made:
    """A record: its line in the artifact, and what `measure` said of it."""

    record: Record
    facts: Any = None


@dataclass(frozen=True)
class Dropped:
    """A well-formed record that is left out, and why."""

    reason: str


Result = Made | Quarantined | Dropped


@dataclass(frozen=True)
class Job:
    block: Block
    origin: Origin
    fields: FieldMap | None
    where: tuple[tuple[str, Any], ...]
    filters: PromptFilterConfig
    max_tokens: int | None = None


class Convert:
    """The work on one block. measure: facts of a record, picklable (components.data.statistics)."""

    def __init__(self, measure: Callable[[Record], Any] | None = None) -> None:
        self.measure = measure

    def __call__(self, job: Job) -> Iterator[Result]:
        for line, row, problem in read_block(job.block):
            yield from self._results(job, line, row, problem)

    def _results(self, job: Job, line: int, row: Any, problem: tuple[str, str] | None) -> list[Result]:
        origin = job.origin
        try:
            if problem is not None:
                raise Malformed(*problem)
            check_where(row, dict(job.where))
            raw = mapped(row, job.fields) if job.fields is not None else row
            records = to_records(LAYOUTS[origin.layout].parse(raw), raw, origin, line)
            found: list[Result] = []
            for record in records:
                _check_text(record)
                if isinstance(record, RlRecord) and origin.purpose == "rl":
                    reason = filter_prompt(record, job.filters)
                    if reason:
                        found.append(Dropped(reason))
                        continue
                facts = self.measure(record) if self.measure else None
                if job.max_tokens is not None and facts is not None and facts.row["tokens"] > job.max_tokens:
                    found.append(Dropped(f"longer than {job.max_tokens} tokens"))
                    continue
                found.append(Made(record, facts))
            return found
        except LeftOut as error:
            return [Dropped(str(error))]
        except Malformed as error:
            text = json.dumps(row, ensure_ascii=True, default=str)[:SHOWN] if row is not None else ""
            return [Quarantined(origin.uri, line, error.field, str(error), text)]


def _check_text(record: Record) -> None:
    """Half a surrogate pair is no text: it can be neither stored nor tokenized."""
    try:
        record.model_dump_json()
    except ValueError as error:
        raise Malformed("record", f"cannot be written as UTF-8: {error}") from None


def stream_source(
    source: FileSource | BenchmarkSource,
    filters: PromptFilterConfig | None = None,
    measure: Callable[[Record], Any] | None = None,
    workers: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Result | SourceEntry]:
    """The results of a source, and each file's entry after its last one.

    With a limit the files are read one after another until it is reached; without, all their blocks are one pool.

    Raises:
        BadInput: no file, an unknown layout, a damaged file. InfrastructureError: a storage does not answer.
    """
    limit = source.limit if isinstance(source, FileSource) else None
    files = files_of_source(source)
    work, left = Convert(measure), limit
    for group in [files] if limit is None else [[uri] for uri in files]:
        tallies: dict[int, _Tally] = {}
        jobs: list[Job] = []
        owner: list[int] = []
        for position, uri in enumerate(group):
            found = _jobs(source, uri, filters or PromptFilterConfig(), block_bytes)
            tallies[position] = _Tally(uri, found[0], found[1])
            jobs += found[2]
            owner += [position] * len(found[2])
        current = 0
        for number, result in ordered(work, jobs, workers):
            while current < owner[number]:
                yield tallies[current].entry(source)
                current += 1
            if left == 0:
                break
            if left is not None and isinstance(result, Made):
                left -= 1
            tallies[current].count(result)
            yield result
        for position in range(current, len(group)):
            yield tallies[position].entry(source)
        if left == 0:
            return


def _jobs(
    source: FileSource | BenchmarkSource, uri: str, filters: PromptFilterConfig, block_bytes: int
) -> tuple[str, str, list[Job]]:
    """(sha256, layout, jobs) of a file."""
    scanned, layout = scan(uri, block_bytes), layout_of(source, uri)
    if layout is None:
        return scanned.sha256, "", []
    is_file = isinstance(source, FileSource)
    origin = Origin(
        uri,
        purpose_of(source),
        layout.name,
        source.licence if is_file else "",
        source.domain,
        "" if is_file else source.name,
        source.fields is not None,
    )
    where = tuple(source.where.items()) if is_file else ()
    jobs = [Job(block, origin, source.fields, where, filters, source.max_tokens) for block in scanned.blocks]
    return scanned.sha256, layout.name, jobs


@dataclass
class _Tally:
    uri: str
    sha256: str
    layout: str
    records: int = 0
    malformed: int = 0
    licences: set[str] = field(default_factory=set)
    left_out: Counter = field(default_factory=Counter)

    def count(self, result: Result) -> None:
        if isinstance(result, Made):
            self.records += 1
            if len(self.licences) < 4:
                self.licences.add(result.record.licence)
        elif isinstance(result, Quarantined):
            self.malformed += 1
        else:
            self.left_out[result.reason] += 1

    def entry(self, source: FileSource | BenchmarkSource) -> SourceEntry:
        split = source.split if isinstance(source, FileSource) else source.name
        stated = source.licence if isinstance(source, FileSource) else ""
        licence = stated or "; ".join(sorted(self.licences - {""})[:3])
        left_out = dict(sorted(self.left_out.items()))
        return SourceEntry(self.uri, self.sha256, licence, self.records, split, self.malformed, self.layout, left_out)


@dataclass
class Ingested:
    records: list[Record] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    sources: list[SourceEntry] = field(default_factory=list)


def ingest(source: FileSource | BenchmarkSource, **how: Any) -> Ingested:
    """A whole source in memory, for small ones; `how` as `stream_source`."""
    result = Ingested()
    for found in stream_source(source, **how):
        if isinstance(found, Made):
            result.records.append(found.record)
        elif isinstance(found, Quarantined):
            result.quarantine.append(found)
        elif isinstance(found, SourceEntry):
            result.sources.append(found)
    return result
