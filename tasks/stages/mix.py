"""Stage `mix` (optional): the splits put together by the recipe's ratios, shuffled, gated on what came out.

Output: data/<split>.jsonl of every split (those the recipe does not name unchanged), mix.json, gates/.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.decontaminate.engine import fields
from components.data.gates import run_gates
from components.data.jsonl import SPLITS, read_records
from components.data.mix import Plan, draw, make_plan, mix_table, shuffled
from components.data.schema import Record
from components.data.suites import suite
from components.failures import BadInput
from components.model.tokenizer import encode_text, load_tokenizer
from components.recipe.mix import MixConfig, SplitMix
from tasks.stage import StageConfig

CHECK_EVERY = 1000


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """inputs: data (clean corpus). Raises BadInput for ratios that the data cannot give."""
    section: MixConfig = config.section
    source, target = context.fetch(inputs["data"], "data"), context.output / "data"
    target.mkdir(parents=True)
    tokenizer = load_tokenizer(config.model.tokenizer)

    def length(record: Record) -> int:
        return sum(len(encode_text(tokenizer, text)) for _, text in fields(record))

    summary: dict[str, float | int | str] = {}
    tables: dict[str, list] = {}
    report = {}
    mixes = section.splits()
    missing = [split for split in mixes if not (source / f"{split}.jsonl").is_file()]
    if missing:
        raise BadInput(f"the corpus has no split {', '.join(missing)}", where="mix", remedy="Take it out of the mix")
    for position, split in enumerate(name for name in SPLITS if (source / f"{name}.jsonl").is_file()):
        context.progress(position, len(SPLITS), split)
        path = source / f"{split}.jsonl"
        if split not in mixes:
            shutil.copyfile(path, target / path.name)
            continue
        plan, volumes = _mix(context, split, mixes[split], path, target / path.name, length)
        for name, values in mix_table(split, plan, volumes).items():
            tables.setdefault(name, []).extend(values)
        summary[split] = plan.total
        summary[f"left out of {split}"] = sum(plan.left_out.values())
        report[split] = {
            "groups": {group: {**vars(each), "epochs": each.epochs} for group, each in plan.draws.items()},
            "volumes": dict(volumes),
            "unit": mixes[split].unit,
            "left_out": dict(plan.left_out),
        }
    (context.output / "mix.json").write_text(json.dumps(report, indent=1) + "\n")
    context.attach(context.output / "mix.json", "mix.json")
    gates = run_gates({"mix": (suite("mix", config.gates), tables)}, context.output / "gates")
    for name, page in gates.pages.items():
        context.attach(page, f"gates/{name}{page.suffix}")
    gates.require(where="mix", remedy="Ask for more records: with few, whole records cannot meet the ratios")
    return StageResult(summary=summary)


def _mix(
    context: StageContext, split: str, mix: SplitMix, path: Path, target: Path, length: Callable[[Record], int]
) -> tuple[Plan, Counter]:
    """Writes one split. Returns its plan and, by group, the records or tokens that are in it."""
    kind = SPLITS[split]

    def name_of(record: Record) -> str:
        value = record.source.partition("#")[0] if mix.by == "source" else getattr(record, mix.by, None)
        if value is None:
            raise BadInput(f"records of {split} have no {mix.by}", where=f"mix.{split}.by", remedy="Use by: source")
        return value

    counts, tokens = Counter[str](), Counter[str]()
    for record in _checked(context, read_records(path, kind)):
        counts[name_of(record)] += 1
        if mix.unit == "tokens":
            tokens[name_of(record)] += length(record)
    plan = make_plan(counts, tokens, mix, f"mix.{split}")
    volumes = Counter[str]()

    def lines() -> Iterator[bytes]:
        for record in _checked(context, draw(read_records(path, kind), name_of, plan, mix, context.seed)):
            volumes[plan.group(name_of(record))] += length(record) if mix.unit == "tokens" else 1
            yield record.model_dump_json().encode() + b"\n"

    ordered: Iterator[bytes] = lines()
    if mix.shuffle:
        used = max((each.epochs for each in plan.draws.values()), default=1.0)
        expected = int(os.path.getsize(path) * max(used, 1.0))
        ordered = shuffled(lines(), plan.total, context.seed, context.scratch / f"shuffle-{split}", expected)
    with target.open("wb") as stream:
        stream.writelines(ordered)
    return plan, volumes


def _checked(context: StageContext, records: Iterator[Record]) -> Iterator[Record]:
    for number, record in enumerate(records):
        if number % CHECK_EVERY == 0:
            context.check()
        yield record
