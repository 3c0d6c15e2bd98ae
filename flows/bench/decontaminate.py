"""Decontamination measured: recall and precision on known copies, published pairs untouched, speed beside a peer.

`--steps N` injects N items of every benchmark (60 when absent). The corpus and the benchmarks are those of
../shared/data; where they are absent the generator's splits stand in, and the setup says so. The peer is datatrove's
n-gram decontamination, run by the interpreter that RINGFLOW_BENCH_PEER names (its own environment, never ours).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data.decontaminate.clean import read_benchmarks
from components.data.decontaminate.detector import Detector, Fields
from components.data.decontaminate.engine import Run, TextRecord, build_items
from components.data.decontaminate.evidence import LEVELS
from components.data.decontaminate.harness.inject import NEGATIVES, POSITIVES
from components.data.decontaminate.harness.measure import BATCH, Measured, measure
from components.data.decontaminate.harness.published import published
from components.data.decontaminate.rows import lines, parse, texts
from components.failures import InfrastructureError
from components.recipe.data import DecontaminateConfig, GeneratorSource
from flows.bench import Bench, Figure

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
# A histogram of ratings is no benchmark of texts.
NO_BENCHMARK = frozenset({"codeforces_ratings_2024"})
INJECTED = 60
REPETITIONS = 3
SIZES = (10_000, 100_000, 1_000_000)
SPEED_CORPORA = ("gsm8k_train.jsonl.gz", "math_train.jsonl.gz")
SPEED_BENCHMARK = "gsm8k_test"
PEER_TIMEOUT_S = 900
GROWTH_TIMEOUT_S = 1800


def run(steps: int | None = None) -> Bench:
    """steps: items of every benchmark that are injected."""
    config = DecontaminateConfig()
    injected = steps or INJECTED
    if not SHARED.is_dir():
        clean, benchmarks = _generated()
        measured = measure(clean, benchmarks, config, injected)
        return Bench(_figures(measured), {"corpus": "generator: ../shared/data is absent", **_setup(measured)})
    benchmarks, clean = shared()
    measured = measure(clean, benchmarks, config, injected)
    figures = _figures(measured) | _published(config) | speed() | growth()
    return Bench(figures, {"corpus": f"{len(clean):,} records of ../shared/data/corpora", **_setup(measured)})


def shared() -> tuple[dict[str, list[TextRecord]], list[Fields]]:
    """(every benchmark, every corpus record) of ../shared/data."""
    files = sorted(path for path in (SHARED / "benchmarks").glob("*.jsonl") if path.stem not in NO_BENCHMARK)
    clean = [texts(parse(line)[0]) for path in sorted((SHARED / "corpora").iterdir()) for _, line in lines(str(path))]
    return read_benchmarks([str(path) for path in files]), clean


def _generated() -> tuple[list[Fields], dict[str, list[TextRecord]]]:
    from components.data.decontaminate.engine import fields
    from components.data.generator import generate

    made = generate(GeneratorSource(pretrain=200, sft=2000, rl=500, preference=200, benchmark=64), seed=0)
    benchmarks = {
        name: [TextRecord(item.id, (("question", fields(item)[0][1]),)) for item in items]
        for name, items in made.benchmarks.items()
    }
    return [fields(record) for record in (*made.sft, *made.rl, *made.preference)], benchmarks


def _figures(measured: Measured) -> dict[str, Figure]:
    def share(value: float) -> Figure:
        return Figure(100 * value, "%", 100 * value, 100 * value)

    figures = {f"recall {kind}": share(value) for kind in POSITIVES if (value := measured.recall(kind)) is not None}
    figures |= {
        f"removed {kind} (should stay)": share(value)
        for kind in NEGATIVES
        if (value := measured.recall(kind)) is not None
    }
    figures |= {
        f"precision {level}": share(value) for level in LEVELS if (value := measured.precision(level)) is not None
    }
    rate = 1000 * measured.false_alarms / measured.clean
    return figures | {"false alarms": Figure(rate, "in 1,000", rate, rate)}


def _published(config: DecontaminateConfig) -> dict[str, Figure]:
    """Share of published pairs that are flagged; the number of pairs stands in the name."""
    return {
        f"published: {group} ({pairs})": Figure.of([100 * flagged / pairs], "%")
        for group, (flagged, _, pairs) in published(SHARED, config).items()
    }


def _setup(measured: Measured) -> dict[str, Any]:
    kinds = (*POSITIVES, *NEGATIVES)
    benchmarks = sorted({benchmark for benchmark, _ in measured.injected})

    def shares(values: Mapping[str, float | None]) -> dict[str, str]:
        return {name: f"{value:.3f}" for name, value in values.items() if value}

    return {
        "injected": sum(measured.injected.values()),
        "flagged in the clean corpus": {
            f"{benchmark}, {level}": count for (benchmark, level), count in sorted(measured.alarms.items())
        },
        "found by level": {kind: shares({level: measured.share(kind, level) for level in LEVELS}) for kind in kinds},
        "recall by benchmark": {
            name: {kind: f"{value:.2f}" for kind in kinds if (value := measured.recall(kind, name)) is not None}
            for name in benchmarks
        },
        "precision by benchmark": shares({name: measured.precision(benchmark=name) for name in benchmarks}),
    }


def speed() -> dict[str, Figure]:
    """Documents and megabytes of text a second, one process, on the same texts: string levels, with the semantic level,
    and the peer."""
    benchmarks = read_benchmarks([str(SHARED / "benchmarks" / f"{SPEED_BENCHMARK}.jsonl")])
    documents = ["\n".join(text for _, text in found) for found in _speed_fields()]
    items = [item.parts[0][1] for item in benchmarks[SPEED_BENCHMARK]]
    size = sum(len(text.encode()) for text in documents) / 1e6
    detector = Detector(build_items(benchmarks), DecontaminateConfig(semantic=False))
    records: list[Fields] = [(("text", text),) for text in documents]
    _search(detector, records[:BATCH])
    ours = [_seconds(lambda: _search(detector, records)) for _ in range(REPETITIONS)]
    figures = {
        "ours, string levels": Figure.of([len(documents) / seconds for seconds in ours], "documents/s"),
        "ours, text": Figure.of([size / seconds for seconds in ours], "MB/s"),
    }
    meaning = Detector(build_items(benchmarks), DecontaminateConfig())
    _search(meaning, records[:BATCH])  # loads the model
    before = meaning.semantic.counts["embedded"]
    seconds = _seconds(lambda: _search(meaning, records))
    embedded = meaning.semantic.counts["embedded"] - before
    figures |= {
        "ours, with the semantic level": Figure.of([len(documents) / seconds], "documents/s"),
        "texts embedded": Figure.of([embedded], "texts"),
    }
    peer = _peer(items, documents)
    if peer is None:
        return figures
    best = min(ours)
    return figures | {
        "datatrove 12-grams": Figure.of([len(documents) / peer["seconds"]], "documents/s"),
        "datatrove, text": Figure.of([size / peer["seconds"]], "MB/s"),
        "datatrove, training items flagged": Figure.of([peer["flagged"]], "documents"),
        "ratio of speeds": Figure.of([peer["seconds"] / best], "x"),
    }


def _speed_fields() -> list[Fields]:
    return [texts(parse(line)[0]) for name in SPEED_CORPORA for _, line in lines(str(SHARED / "corpora" / name))]


def _search(detector: Detector, records: Sequence[Fields]) -> Run:
    run = Run(detector, lambda evidence: None)
    run.begin("corpus")
    for start in range(0, len(records), BATCH):
        part = records[start : start + BATCH]
        ids = [str(start + row) for row in range(len(part))]
        run.absorb("corpus", ids, detector.search("corpus", ids, part))
    return run


def _seconds(work) -> float:
    """Processor seconds: on a machine that others use, the wall clock measures the others."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _peer(items: list[str], documents: list[str]) -> dict[str, float] | None:
    """Processor seconds and flagged documents of datatrove; None when no environment for it is named."""
    python = os.environ.get("RINGFLOW_BENCH_PEER")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.json"
        path.write_text(json.dumps({"items": items, "documents": documents}))
        script = Path(__file__).resolve().parents[1] / "peers" / "datatrove_decontamination.py"
        done = subprocess.run(
            [python, str(script), str(path)], capture_output=True, text=True, timeout=PEER_TIMEOUT_S, check=False
        )
    if done.returncode:
        raise InfrastructureError(f"the peer ended with exit code {done.returncode}: {done.stderr[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])


def growth() -> dict[str, Figure]:
    """`ringflow data clean` on ten thousand, a hundred thousand and a million documents, each in a process of its own
    (peak memory is that of a process): string levels, GSM8K test, files on disk to files on disk."""
    figures = {}
    for size in SIZES:
        command = [sys.executable, "-m", "flows.bench._decontaminate_growth", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GROWTH_TIMEOUT_S, check=False)
        if done.returncode:
            raise InfrastructureError(f"{size:,} documents ended with {done.returncode}: {done.stderr[-400:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        name = f"{size:,} documents"
        figures[name] = Figure.of([found["seconds"]], "s")
        figures[f"{name}, speed"] = Figure.of([size / found["seconds"]], "documents/s")
        figures[f"{name}, text"] = Figure.of([found["megabytes"] / found["seconds"]], "MB/s")
        figures[f"{name}, peak memory"] = Figure.of([found["peak_mib"]], "MiB")
    return figures
