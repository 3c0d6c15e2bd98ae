"""Which layout a recipe gets on a cluster, what it holds, and how long it takes: a search over layouts, by arithmetic.

Every layout that the model can be divided by is priced; of those that fit, the fastest is taken; if none fits, the one
that comes nearest, and the smallest doubling of the cluster on which one does. `today` is the code as it is, with the
recipe's execution settings; `extended` has besides what components.model.memory lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Literal

from components.failures import BadInput
from components.model.accelerators import Cluster
from components.model.cost import LINK, Decoding, StepTime, decoding, step_time
from components.model.layout import Layout
from components.model.memory import (
    CONTEXT,
    EngineLayout,
    Memory,
    Method,
    engine_memory,
    learner_memory,
    rank_parameters,
    weight_bytes,
)
from components.model.precision import check_shapes
from components.model.spec import LingSpec, spec_for
from components.model.workload import MEAN_LENGTH, Load, loads_of
from components.recipe.recipe import Recipe

Placement = Literal["colocated", "disaggregated"]
MOST_DEVICES = 16_384


@dataclass(frozen=True)
class LoadTime:
    """Seconds of one step of a load. logprobs: the forward pass for old log-probs. update: forward and backward."""

    load: Load
    update: StepTime
    logprobs: StepTime | None = None
    decoding: Decoding | None = None
    rollout: float = 0.0
    exchange: float = 0.0

    @property
    def step(self) -> float:
        learning = self.update.total + (self.logprobs.total if self.logprobs else 0.0)
        work = max(self.rollout, learning) if self.load.overlaps else self.rollout + learning
        return work + self.exchange

    @property
    def total(self) -> float:
        return self.step * self.load.steps


@dataclass(frozen=True)
class Plan:
    """learner, engine: memory of the fullest device of each. peak: of a device, with both where it serves both."""

    cluster: Cluster
    method: Method
    placement: Placement
    layout: Layout
    engine_layout: EngineLayout
    engines: int
    learner: Memory
    engine: Memory
    peak: float
    times: tuple[LoadTime, ...]
    exchange_bytes: float
    resume_bytes: float
    checkpoint_bytes: float
    release_bytes: float

    @property
    def fits(self) -> bool:
        return self.peak <= self.cluster.accelerator.memory

    @cached_property
    def seconds(self) -> float:
        return sum(time.total for time in self.times)

    @property
    def misfits(self) -> list[str]:
        """What does not fit, by its name and size."""
        room = self.cluster.accelerator.memory
        parts = {"a learner": self.learner.total, "an engine": self.engine.total, "the exchange of weights": self.peak}
        over = {name: size for name, size in parts.items() if size > room}
        if len(over) > 1:
            over.pop("the exchange of weights", None)
        return [f"{name} needs {size / 1e9:.0f} of {room / 1e9:.0f} GB" for name, size in over.items()]


def plan(recipe: Recipe, cluster: Cluster, method: Method, mean_length: float = MEAN_LENGTH) -> Plan:
    """The fastest plan that fits, or the one that misses by least."""
    spec, loads = spec_for(recipe.model), loads_of(recipe, mean_length)
    made = list(_plans(recipe, spec, loads, cluster, method))
    fitting = [candidate for candidate in made if candidate.fits]
    return min(fitting, key=lambda p: p.seconds) if fitting else min(made, key=lambda p: (p.peak, p.learner.total))


def smallest(recipe: Recipe, cluster: Cluster, method: Method, mean_length: float = MEAN_LENGTH) -> Plan | None:
    """The plan on the smallest doubling of the cluster that fits; None up to MOST_DEVICES devices."""
    while cluster.devices <= MOST_DEVICES:
        if (found := plan(recipe, cluster, method, mean_length)).fits:
            return found
        cluster = replace(cluster, devices=cluster.devices * 2)
    return None


def _plans(recipe: Recipe, spec: LingSpec, loads: list[Load], cluster: Cluster, method: Method) -> Iterator[Plan]:
    """Of every placement: the fastest learners and engines that fit, else the smallest."""
    everyone = cluster.devices
    shares: list[tuple[Placement, int, int]] = [("colocated", everyone, everyone)]
    shares += [("disaggregated", everyone * n // 4, everyone - everyone * n // 4) for n in (1, 2, 3)]
    for placement, learners, drawing in shares:
        layouts = list(_layouts(spec, learners, cluster.accelerator.per_node, method.dtype)) if learners else []
        engine_layouts = list(_engine_layouts(spec, drawing, method)) if drawing else []
        if not layouts or not engine_layouts:
            continue
        room = cluster.accelerator.memory
        share = method.engine_share(placement == "colocated")
        for engine_layout in _best_engines(recipe, spec, loads, cluster, engine_layouts, drawing, share):
            engines = drawing // engine_layout.devices
            engine = _engine(recipe, spec, loads, cluster, engine_layout, share)
            sized = []
            for layout in layouts:
                learner = _learner(spec, layout, method, loads)
                peak = max(learner.total, engine.total)
                if placement == "colocated":  # while weights move, both have theirs
                    both = learner.weights + learner.gradients + learner.moments + engine.weights
                    peak = max(peak, both + 2 * CONTEXT + 4.0 * spec.vocab_size * spec.hidden_size)
                    # While engines draw, learners keep weights that are not their own master copies.
                    waiting = learner.weights if method.width == 2 else 0.0
                    peak = max(peak, engine.total + waiting + CONTEXT)
                sized.append((peak, layout, learner))
            fitting = [row for row in sized if row[0] <= room]
            fitting = fitting or [min(sized, key=lambda row: (row[0], row[2].total))]
            priced = (
                _priced(
                    recipe,
                    spec,
                    loads,
                    cluster,
                    method,
                    placement,
                    layout,
                    engine_layout,
                    engines,
                    learner,
                    engine,
                    peak,
                )
                for peak, layout, learner in fitting
            )
            yield min(priced, key=lambda p: p.seconds)


def _priced(
    recipe, spec, loads, cluster, method, placement, layout, engine_layout, engines, learner, engine, peak
) -> Plan:
    count = spec.parameter_count()[0]
    # Every device of every engine sees every tensor, in the learner's dtype: by one broadcast of vLLM's nccl transfer,
    # or put together on each learner, who hands it to the engine on its own device.
    moved = weight_bytes(count, spec.vocab_size * spec.hidden_size, method.width)
    exchange = moved / (cluster.speed(cluster.devices) * LINK)
    stored = count + spec.mtp_parameters()  # engines have none of it
    times = []
    for load in loads:
        batch = load.micro_batch(method)
        trained = spec if load.mtp else spec.without_mtp()
        update = step_time(trained, layout, method, cluster, load.tokens, batch, load.length, True, load.updates)
        if not load.generated:
            times.append(LoadTime(load, update))
            continue
        logprobs = step_time(trained, layout, method, cluster, load.tokens, batch, load.length, False)
        drawn, rollout = _drawn(recipe, spec, load, cluster, engine_layout, engines, engine)
        times.append(LoadTime(load, update, logprobs, drawn, rollout, exchange))
    return Plan(
        cluster, method, placement, layout, engine_layout, engines, learner, engine, peak, tuple(times),
        moved, 12.0 * stored, 4.0 * stored, 2.0 * stored,
    )  # fmt: skip


def _drawn(recipe, spec, load, cluster, layout, engines, memory) -> tuple[Decoding, float]:
    """One engine's decoding of a load, and the seconds that all engines take for a step of it."""
    most = min(recipe.execution.max_num_seqs, ceil(load.in_flight / engines))
    drawn = decoding(spec, layout, cluster, memory.kv_cache, load.length, most)
    return drawn, load.generated / (drawn.tokens_per_second * engines)


def _layouts(spec: LingSpec, learners: int, per_node: int, dtype: str) -> Iterator[Layout]:
    """Every layout of `learners` ranks that the model can be divided by, tensor parallel inside a node."""
    for tensor in _divisors(learners, per_node):
        for context in _divisors(learners // tensor, per_node):
            for pipeline in _divisors(learners // tensor // context, 16):
                for expert in _divisors(learners // pipeline, spec.num_experts):
                    layout = Layout(learners, tensor, context, pipeline, expert)
                    try:
                        layout.check(spec)
                        check_shapes(spec, layout, dtype)
                    except BadInput:
                        continue
                    yield layout


def _engine_layouts(spec: LingSpec, devices: int, method: Method) -> Iterator[EngineLayout]:
    for tensor in _divisors(spec.num_attention_heads, min(method.engine_tensor, devices)):
        for pipeline in _divisors(spec.num_hidden_layers, min(method.engine_pipeline, devices // tensor)):
            yield EngineLayout(tensor, pipeline)


def _best_engines(recipe, spec, loads, cluster, layouts, devices, share) -> list[EngineLayout]:
    """The engine layouts that fit, quickest first, at most three; else the one that is nearest to fitting."""

    def need(layout: EngineLayout) -> float:
        return _engine(recipe, spec, loads, cluster, layout, share).total

    def seconds(layout: EngineLayout) -> float:
        engines, memory = devices // layout.devices, _engine(recipe, spec, loads, cluster, layout, share)
        return sum(
            load.steps * _drawn(recipe, spec, load, cluster, layout, engines, memory)[1]
            for load in loads
            if load.generated
        )

    fitting = [layout for layout in layouts if need(layout) <= cluster.accelerator.memory]
    return sorted(fitting, key=seconds)[:3] or [min(layouts, key=need)]


def _engine(
    recipe: Recipe, spec: LingSpec, loads: list[Load], cluster: Cluster, layout: EngineLayout, share: float
) -> Memory:
    # Without RL the engines evaluate only, and their answers may fill the context.
    context = max((load.longest for load in loads if load.generated), default=spec.max_position_embeddings)
    return engine_memory(spec, layout, share * cluster.accelerator.memory, context, recipe.execution.max_num_seqs)


def _learner(spec: LingSpec, layout: Layout, method: Method, loads: list[Load]) -> Memory:
    """The fullest rank at the longest micro-batch of any load, an MTP layer trained if any load does."""
    trained = spec if any(load.mtp for load in loads) else spec.without_mtp()
    batch, length = max((load.micro_batch(method), load.longest) for load in loads)
    batches = max(ceil(load.tokens / (batch * layout.data)) for load in loads)
    stages = {0, min(1, layout.pipeline - 1), layout.pipeline - 1}
    fullest = max(
        (learner_memory(trained, layout, method, stage, batch, batches, length) for stage in stages),
        key=lambda memory: memory.total,
    )
    resting = rank_parameters(spec, layout, 0).total - rank_parameters(trained, layout, 0).total
    return replace(fullest, weights=fullest.weights + method.width * resting)


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]
