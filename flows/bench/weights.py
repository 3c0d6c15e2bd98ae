"""Seconds per GB of a weight exchange, beside memcpy and beside saving to disk and loading again, in one run.

Learner and engine are those of a run, in processes of their own: the learner packs and shares its shard, the engine
checks and loads it. `disk` is what a team does without an exchange: write the Hugging Face directory, and let the
engine read it (from the page cache: it was written a moment ago). Both end with the engine holding the new weights.

`delta` asks whether sending only what changed would pay: which part of the values an update leaves as they were, in
float32 and as a bfloat16 engine rounds them, and what finding and packing the rest costs beside packing all of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from components.artifacts.folder import Folder
from components.cluster.connect import connect
from components.model.hf_config import config_json
from components.model.spec import PRESETS
from components.model.tokenizer import load_tokenizer
from components.model.wire import checksum_of
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.rollout.group import EngineGroup
from components.training.group import LearnerGroup
from components.training.types import Sequence
from flows.bench import Bench, Figure

MODELS = ("nano", "small")
REPETITIONS = 4
EXECUTION = ExecutionConfig(learners=1, engines=1, max_num_seqs=8)
# An AdamW step moves a weight by about its rate: that of nano's RLVR, and the one Ring-1T's report gives.
RATES = (1e-4, 2e-6)


def run(steps: int = REPETITIONS) -> Bench:
    """steps: repetitions of each exchange."""
    connect(EXECUTION)
    figures: dict[str, Figure] = {}
    setup: dict[str, Any] = {"learner, engine": "one process each, one thread, float32", "repetitions": steps}
    for name in MODELS:
        with _pair(name) as (learners, engines):
            learners.initialise(0)
            size = sum(layout.bytes for layout in learners.weights().layouts) / 1e9
            setup[f"{name} GB"] = round(size, 4)
            figures |= _exchange(name, size, learners, engines, steps)
            figures |= _delta(name, learners)
    return Bench(figures, setup)


@contextmanager
def _pair(name: str) -> Iterator[tuple[LearnerGroup, EngineGroup]]:
    spec = PRESETS[name]
    engines = EngineGroup(config_json(spec, load_tokenizer("nano"), "float32"), "float32", 128, EXECUTION)
    learners = LearnerGroup(ModelConfig(preset=name), EXECUTION, seed=0)
    try:
        yield learners, engines
    finally:
        engines.close()
        learners.close()


def _exchange(
    name: str, size: float, learners: LearnerGroup, engines: EngineGroup, repetitions: int
) -> dict[str, Figure]:
    seconds: dict[str, list[float]] = {}

    def timed(what: str, call: Callable[[], Any]) -> Any:
        began = perf_counter()
        answer = call()
        seconds.setdefault(what, []).append((perf_counter() - began) / size)
        return answer

    engines.publish(0, learners.weights())  # first loads compile and allocate
    for version in range(1, repetitions + 1):
        began = perf_counter()
        weights = timed("pack, check, share", learners.weights)
        timed("check, load", partial(engines.publish, version, weights))
        seconds.setdefault("exchange", []).append((perf_counter() - began) / size)
        buffer = np.array(weights.buffers()[0])
        timed("memcpy", buffer.copy)
        timed("checksum", partial(checksum_of, (), buffer))
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place, "model")
            began = perf_counter()
            timed("write to disk", partial(learners.write_hf, Folder.local(directory), "nano"))
            read = partial(engines.workers.call, "load_files", 0, str(directory))
            timed("read from disk", partial(read, deadline_s=EXECUTION.step_deadline_s))
            seconds.setdefault("disk", []).append((perf_counter() - began) / size)
    figures = {f"{name}: {what}": Figure.of(values, "s/GB") for what, values in seconds.items()}
    best = {what: min(values) for what, values in seconds.items()}
    for title, value in (
        ("exchange over memcpy", best["exchange"] / best["memcpy"]),
        ("disk over exchange", best["disk"] / best["exchange"]),
    ):
        figures[f"{name}: {title}"] = Figure(value, "x", value, value)
    return figures


def _delta(name: str, learners: LearnerGroup) -> dict[str, Figure]:
    figures = {}
    rng = np.random.default_rng(0)
    documents = [Sequence(rng.integers(10, 112, 64), np.arange(64) > 0) for _ in range(4)]
    for rate in RATES:
        learners.configure(OptimiserConfig(lr=rate), 10, 0.0)
        for _ in range(2):  # AdamW's first step is its largest
            learners.train_tokens(documents, 64)
        before = _copied(learners.weights())
        learners.train_tokens(documents, 64)
        after = _copied(learners.weights())
        size = after.nbytes / 1e9
        began = perf_counter()
        changed = np.flatnonzero(before != after)
        packed = after[changed]
        spent = perf_counter() - began
        rounded = [torch.from_numpy(array).to(torch.bfloat16) for array in (before, after)]
        same = float((rounded[0] == rounded[1]).float().mean())
        unchanged = 1 - len(packed) / len(after)
        figures[f"{name}: unchanged at {rate:g}"] = Figure(unchanged, "of values", unchanged, unchanged)
        figures[f"{name}: unchanged in bfloat16 at {rate:g}"] = Figure(same, "of values", same, same)
        figures[f"{name}: find and pack the changed at {rate:g}"] = Figure(spent / size, "s/GB", 0.0, spent / size)
    return figures


def _copied(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in weights.values()])
