"""Writes a corpus record by record and gathers what the gates need, in memory that the configuration bounds.

Exact over everything: counts, tokens, domains, length histogram, repeated records, questions that stand in two places.
By a sample: the properties of single records. The sample is the records with the smallest hash of id and position, so
it does not depend on workers or on the order of hashing; a split smaller than the sample is looked at as a whole.
"""

from __future__ import annotations

import heapq
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from components.data.repeats import MEMORY_BYTES, KeyLog
from components.data.schema import Record
from components.data.statistics import Facts

HELDOUT_FRACTION = 0.1
BENCHMARK = "benchmark:"
# Of two places of one question the later one is told; a split's own order is components.data.dedup's.
PLACES = ("preference_heldout", "preference", "rl", "sft")


@dataclass
class Totals:
    """Numbers over all records of a place. lengths: floor(log2(tokens)) -> records."""

    records: int = 0
    tokens: int = 0
    characters: int = 0
    domains: Counter = field(default_factory=Counter)
    domain_tokens: Counter = field(default_factory=Counter)
    lengths: Counter = field(default_factory=Counter)
    duplicates: int = 0
    elsewhere: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.records += 1
        self.tokens += row["tokens"]
        self.characters += row["characters"]
        self.lengths[max(row["tokens"], 1).bit_length() - 1] += 1
        if "domain" in row:
            self.domains[row["domain"]] += 1
            self.domain_tokens[row["domain"]] += row["tokens"]

    def as_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "tokens": self.tokens,
            "characters": self.characters,
            "duplicates": self.duplicates,
            "in_other_split": self.elsewhere,
            "domains": dict(sorted(self.domains.items())),
            "domain_tokens": dict(sorted(self.domain_tokens.items())),
            "log2_tokens": {str(length): count for length, count in sorted(self.lengths.items())},
        }


@dataclass(frozen=True)
class Gathered:
    """One place of a finished corpus. rows: the sample, in corpus order, with `duplicate` and `in_other_split`."""

    totals: Totals
    rows: list[dict[str, Any]]


class Sample:
    """The `size` records with the smallest hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Facts]] = []

    def add(self, position: int, facts: Facts) -> None:
        name = f"{facts.row['id']}/{position}".encode()
        entry = (-int.from_bytes(blake2b(name, digest_size=8).digest(), "big"), position, facts)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif entry[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    def members(self) -> list[tuple[int, Facts]]:
        return sorted(((position, facts) for _, position, facts in self._heap), key=lambda member: member[0])


class CorpusWriter:
    """Writes data/<split>.jsonl and benchmarks/<name>.jsonl below `directory`; use it in a `with` statement.

    Preference pairs wait in `scratch` until all are there: unless a source brought a held-out part, the pairs with the
    smallest ids become one.
    """

    def __init__(self, directory: Path, scratch: Path, sample: int, memory_bytes: int = MEMORY_BYTES) -> None:
        self._directory, self._scratch, self._sample_size = Path(directory), Path(scratch), sample
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._totals: dict[str, Totals] = {}
        self._samples: dict[str, Sample] = {}
        self._wholes = KeyLog(self._scratch / "wholes", memory_bytes // 2)
        self._questions = KeyLog(self._scratch / "questions", memory_bytes // 2)
        self._waiting = _Waiting(self._scratch / "pairs")

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._waiting.close()

    def open(self, place: str) -> None:
        """Makes the file of a split or of `benchmark:<name>`, also when no record follows."""
        if place in self._files:
            return
        name = place.removeprefix(BENCHMARK)
        path = self._directory / ("benchmarks" if place.startswith(BENCHMARK) else "data") / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files[place] = self._held.enter_context(path.open("wb"))
        self._totals[place], self._samples[place] = Totals(), Sample(self._sample_size)

    def add(self, place: str, record: Record, facts: Facts) -> None:
        line = record.model_dump_json().encode() + b"\n"
        if place == "preference":
            self._waiting.add(line, facts)
        else:
            self._write(place, line, facts)

    def finish(self) -> dict[str, Gathered]:
        """Closes the files. The splits and benchmarks with their totals and samples, in the order they were opened."""
        own_heldout = "preference_heldout" in self._files and self._totals["preference_heldout"].records > 0
        for line, facts, held in self._waiting.replay(0.0 if own_heldout else HELDOUT_FRACTION):
            self._write("preference_heldout" if held else "preference", line, facts)
        self._held.close()
        members = {place: sample.members() for place, sample in self._samples.items()}
        asked = {place: {position for position, _ in found} for place, found in members.items()}
        repeated = self._wholes.repeated(asked)
        benchmarks = sorted(place for place in self._files if place.startswith(BENCHMARK))
        elsewhere = self._questions.elsewhere(asked, [*benchmarks, *PLACES])
        gathered = {}
        for place, found in members.items():
            totals = self._totals[place]
            totals.duplicates, totals.elsewhere = repeated.counts[place], elsewhere.counts[place]
            rows = [
                {
                    **facts.row,
                    "duplicate": position in repeated.flagged[place],
                    "in_other_split": position in elsewhere.flagged[place],
                    "prose": facts.prose,
                }
                for position, facts in found
            ]
            gathered[place] = Gathered(totals, rows)
        return gathered

    def _write(self, place: str, line: bytes, facts: Facts) -> None:
        self.open(place)
        totals = self._totals[place]
        position = totals.records
        self._files[place].write(line)
        totals.add(facts.row)
        self._samples[place].add(position, facts)
        self._wholes.add(facts.key, place, position)
        if place in PLACES or place.startswith(BENCHMARK):
            self._questions.add(facts.prompt_key, place, position)


class _Waiting:
    """Preference pairs on disk until it is known which of them are held out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._bins: Counter = Counter()

    def add(self, line: bytes, facts: Facts) -> None:
        if self._stream is None:
            self._stream = self._path.open("wb")
        pickle.dump((line, facts), self._stream)
        self._bins[facts.row["id"][:4]] += 1

    def replay(self, fraction: float) -> Iterator[tuple[bytes, Facts, bool]]:
        """(line, facts, held out), in the order they were added."""
        self.close()
        last = self._threshold(fraction)
        for line, facts in self._stored():
            yield line, facts, facts.row["id"] <= last

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _threshold(self, fraction: float) -> str:
        """The largest id that is held out; empty when none is. Two passes over the file, not all ids in memory."""
        total = sum(self._bins.values())
        if fraction == 0 or total < 2:
            return ""
        wanted = max(1, int(total * fraction))
        before = 0
        for start, count in sorted(self._bins.items()):
            if before + count >= wanted:
                ids = sorted(facts.row["id"] for _, facts in self._stored() if facts.row["id"].startswith(start))
                return ids[wanted - before - 1]
            before += count
        raise AssertionError("unreachable")

    def _stored(self) -> Iterator[tuple[bytes, Facts]]:
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            while True:
                try:
                    yield pickle.load(stream)
                except EOFError:
                    return
