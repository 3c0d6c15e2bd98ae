"""Mixing: how many records of every group, which ones, how often, and in which order. A pure function of data and seed.

The plan is made from counts alone; records are then drawn and shuffled in one stream. A group that gives half of its
records gives a pseudo-random half, one that gives two and a half epochs gives all twice and half once more. The order
is a permutation of all places (components.data.permutation), sorted on disk in buckets, so memory does not grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from components.data.permutation import Permutation
from components.data.schema import Record
from components.failures import BadInput
from components.recipe.mix import SplitMix

BUCKET_BYTES = 64 << 20
PLACE_BYTES = 8


@dataclass(frozen=True)
class Draw:
    """One group: records it has, records it gives, and its share of the mix as the recipe wants it."""

    available: int
    taken: int
    wanted: float

    @property
    def epochs(self) -> float:
        return self.taken / self.available if self.available else 0.0

    def copies(self, index: int, partial: Permutation) -> int:
        """How often the record with this number in its group is used."""
        whole, rest = divmod(self.taken, self.available)
        return whole + (partial(index) < rest)


@dataclass(frozen=True)
class Plan:
    """draws: group -> what it gives, in name order. left_out: group -> its records, which the recipe does not name."""

    draws: Mapping[str, Draw]
    left_out: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(draw.taken for draw in self.draws.values())

    def group(self, name: str) -> str | None:
        """The group of the plan that a record's own name (its domain, family or source) belongs to."""
        return next((group for group in self.draws if name in group.split("|")), None)


def make_plan(counts: Mapping[str, int], tokens: Mapping[str, int], config: SplitMix, where: str) -> Plan:
    """How many records of every group.

    Args:
        counts, tokens: by the records' own names (`config.by`); tokens are used when the ratios are of tokens.
    Raises:
        BadInput: a group of the ratios has no records, or the records asked for need more epochs than allowed.
    """
    weights = config.weights or _natural(counts if config.unit == "records" else tokens, config.temperature)
    sizes, volumes = Counter[str](), Counter[str]()
    for group in weights:
        for name in group.split("|"):
            sizes[group] += counts.get(name, 0)
            volumes[group] += tokens.get(name, 0)
    empty = [group for group in weights if not sizes[group]]
    if empty or not weights:
        raise BadInput(
            f"no records of {', '.join(empty) or 'any group'}",
            where=where,
            remedy=f"The data has {', '.join(f'{name} ({count})' for name, count in sorted(counts.items()))}; "
            "change the ratios, or add such records",
        )
    share = {group: weight / sum(weights.values()) for group, weight in weights.items()}
    # Records for one unit of the mix: a group of long records needs fewer of them for its share of tokens.
    per_unit = {
        group: share[group] / (volumes[group] / sizes[group] if config.unit == "tokens" else 1) for group in share
    }
    most = {group: min(sizes[group] * config.max_epochs, config.caps.get(group, float("inf"))) for group in share}
    scale = min(most[group] / per_unit[group] for group in share)
    if config.records is not None:
        scale = _asked(config.records, per_unit, most, sizes, scale, where)
    taken = {group: int(min(most[group], round(scale * per_unit[group]))) for group in share}
    draws = {group: Draw(sizes[group], taken[group], share[group]) for group in sorted(share)}
    named = {name for group in share for name in group.split("|")}
    return Plan(draws, {name: count for name, count in sorted(counts.items()) if name not in named})


def _natural(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    return {name: size ** (1 / temperature) for name, size in sizes.items() if size}


def _asked(records: int, per_unit, most, sizes, largest: float, where: str) -> float:
    scale = records / sum(per_unit.values())
    if scale > largest * (1 + 1e-9):
        scarce = min(per_unit, key=lambda group: most[group] / per_unit[group])
        wanted = round(scale * per_unit[scarce])
        possible = int(largest * sum(per_unit.values()) + 1e-6)
        raise BadInput(
            f"{records} records of this mix need {wanted} of {scarce}, which has {sizes[scarce]} "
            f"and may give {int(most[scarce])}",
            where=where,
            remedy=f"Ask for at most {possible} records, or raise max_epochs or the cap",
        )
    return scale


def draw(
    records: Iterable[Record], name_of: Callable[[Record], str], plan: Plan, config: SplitMix, seed: int
) -> Iterator[Record]:
    """The records of the mix in the order of the corpus, copies side by side; a copy says which it is."""
    partial = {group: Permutation(each.available, f"{seed}/draw/{group}") for group, each in plan.draws.items()}
    seen = Counter[str]()
    for record in records:
        group = plan.group(name_of(record))
        if group is None:
            continue
        copies = plan.draws[group].copies(seen[group], partial[group])
        seen[group] += 1
        for copy in range(copies):
            changes = (*record.transformations, f"mix copy {copy + 1}") if copy else record.transformations
            yield record.model_copy(update={"transformations": changes}) if copy else record


def shuffled(
    lines: Iterable[bytes], count: int, seed: int, scratch: Path, expected_bytes: int, bucket_bytes: int = BUCKET_BYTES
) -> Iterator[bytes]:
    """`count` lines in pseudo-random order: line i goes to place permutation(i). Memory: about two buckets.

    Places are dealt to buckets in equal ranges; a bucket is sorted when all lines are there. expected_bytes: of all
    lines, about; it only decides how many buckets there are.
    """
    place = Permutation(count, f"{seed}/order")
    buckets = max(1, -(-expected_bytes // bucket_bytes))
    held: list[tuple[int, bytes]] = []
    size, spilled = 0, False
    for index, line in enumerate(lines):
        held.append((place(index), line))
        size += len(line)
        if size >= bucket_bytes:
            _spill(held, scratch, count, buckets)
            held, size, spilled = [], 0, True
    if not spilled:
        yield from (line for _, line in sorted(held))
        return
    _spill(held, scratch, count, buckets)
    for path in sorted(scratch.glob("*.bucket")):
        yield from (line for _, line in sorted(_stored(path)))
        path.unlink()


def _spill(rows: list[tuple[int, bytes]], scratch: Path, count: int, buckets: int) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    for bucket, members in groupby(sorted(rows), key=lambda row: row[0] * buckets // count):
        with (scratch / f"{bucket:09d}.bucket").open("ab") as stream:
            for place, line in members:
                head = place.to_bytes(PLACE_BYTES, "little") + len(line).to_bytes(PLACE_BYTES, "little")
                stream.write(head + line)


def _stored(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        while head := stream.read(2 * PLACE_BYTES):
            place, length = int.from_bytes(head[:PLACE_BYTES], "little"), int.from_bytes(head[PLACE_BYTES:], "little")
            yield place, stream.read(length)


def mix_table(split: str, plan: Plan, volumes: Mapping[str, int]) -> dict[str, list]:
    """Columns of the suite `mix`. volumes: group -> records or tokens that really are in the mix."""
    total = sum(volumes.values()) or 1
    groups = list(plan.draws)
    shares = [volumes.get(group, 0) / total for group in groups]
    return {
        "id": [f"{split}/{group}" for group in groups],
        "split": [split] * len(groups),
        "domain": groups,
        "wanted": [plan.draws[group].wanted for group in groups],
        "share": shares,
        "deviation": [share - plan.draws[group].wanted for share, group in zip(shares, groups, strict=True)],
        "epochs": [plan.draws[group].epochs for group in groups],
    }
