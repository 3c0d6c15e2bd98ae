"""`ringflow plan RECIPE --devices 64xH100`: the plan of components.model.planner as tables or JSON.

Two columns: what the code does today with the recipe's settings, and what it would do with the work that docs/scale.md
lists.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from components.model.accelerators import Cluster, parse_cluster
from components.model.layout import Layout
from components.model.memory import METHODS, Method
from components.model.planner import MOST_DEVICES, LoadTime, Plan, plan, smallest
from components.recipe.recipe import Recipe

LEARNER_PARTS = ("weights", "gradients", "moments", "activations", "working", "buffers", "total")
ENGINE_PARTS = ("weights", "kv_cache", "buffers", "total")
UPDATE_PARTS = ("compute", "memory", "optimiser", "bubble", "tensor", "context", "expert", "pipeline", "gradients")


def scale_plan(recipe: Recipe, devices: str, mean_length: float) -> list[tuple[Plan, Plan | None]]:
    """Of each method: the plan on these devices, and where that does not fit the smallest one that does.

    Raises BadInput for devices that cannot be read or divided.
    """
    cluster = parse_cluster(devices)
    made = [plan(recipe, cluster, method(recipe.execution), mean_length) for method in METHODS.values()]
    return [(p, p if p.fits else smallest(recipe, cluster, p.method, mean_length)) for p in made]


def as_json(recipe: Recipe, made: list[tuple[Plan, Plan | None]], mean_length: float) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "measured": False,
        "mean_length": mean_length,
        "plans": [
            {**_one(here), "nearest_that_fits": None if fitting is None or fitting is here else _one(fitting)}
            for here, fitting in made
        ],
    }


def _one(p: Plan) -> dict[str, Any]:
    """Bytes and seconds. Times of a plan that does not fit are left out: nobody will see them."""
    return {
        "method": asdict(p.method),
        "devices": p.cluster.devices,
        "accelerator": asdict(p.cluster.accelerator),
        "placement": p.placement,
        "learners": asdict(p.layout) | {"data": p.layout.data},
        "engines": asdict(p.engine_layout) | {"count": p.engines},
        "learner_memory": asdict(p.learner) | {"total": p.learner.total},
        "engine_memory": asdict(p.engine) | {"total": p.engine.total},
        "peak": p.peak,
        "fits": p.fits,
        "misfits": p.misfits,
        "stages": [_stage(time) for time in p.times] if p.fits else [],
        "seconds": p.seconds if p.fits else None,
        "bytes": {
            "exchange": p.exchange_bytes,
            "resume_point": p.resume_bytes,
            "checkpoint": p.checkpoint_bytes,
            "release": p.release_bytes,
        },
    }


def _stage(time: LoadTime) -> dict[str, Any]:
    return {
        "stage": time.load.name,
        "steps": time.load.steps,
        "tokens": time.load.tokens,
        "step_seconds": time.step,
        "rollout": time.rollout,
        "logprobs": time.logprobs.total if time.logprobs else 0.0,
        "update": {name: getattr(time.update, name) for name in UPDATE_PARTS},
        "sent_bytes": time.update.sent,
        "exchange": time.exchange,
        "sequences": time.decoding.sequences if time.decoding else 0,
        "seconds": time.total,
    }


def print_scale(recipe: Recipe, devices: str, mean_length: float, json_: bool) -> None:
    from flows.cli.output import print_json, print_table

    made = scale_plan(recipe, devices, mean_length)
    if json_:
        print_json(as_json(recipe, made, mean_length))
        return
    plans = [here for here, _ in made]
    names = [p.method.name for p in plans]
    print_table([f"{recipe.name} on {devices}", *names], _layout_rows(made))
    rows = [[f"learner: {part}", *(_gb(getattr(p.learner, part)) for p in plans)] for part in LEARNER_PARTS]
    rows += [[f"engine: {part}", *(_gb(getattr(p.engine, part)) for p in plans)] for part in ENGINE_PARTS]
    print()
    print_table(["GB of the fullest device", *names], rows, right=names)
    shown: list[Plan] = []
    for p in (fitting for _, fitting in made if fitting is not None):
        print()
        if same := next((other for other in shown if (other.cluster, other.times) == (p.cluster, p.times)), None):
            print(f"{p.method.name} on {_devices(p.cluster)}: the seconds of {same.method.name}")
            continue
        shown.append(p)
        stages = [time.load.name for time in p.times]
        title = f"{p.method.name} on {_devices(p.cluster)}, s a step"
        print_table([title, *stages], _time_rows(p.times), right=stages)
        print(f"all stages: {p.seconds / 86400:.1f} days")
    p = plans[0]
    print(
        f"\nstorage: resume point {_size(p.resume_bytes)}, checkpoint {_size(p.checkpoint_bytes)}, "
        f"release {_size(p.release_bytes)}"
    )
    sent = ", ".join(f"{p.method.name} {_size(p.exchange_bytes)}" for p in plans)
    print(f"network, into every engine device in one weight exchange: {sent}")
    print(
        f"\nA model, not a measurement: docs/scale.md. Answers of {mean_length:g} times the longest on average,\n"
        "without evaluations, pass-rate and verifiers."
    )


def _layout_rows(made: list[tuple[Plan, Plan | None]]) -> list[list[str]]:
    plans = [here for here, _ in made]
    return [
        ["placement", *(p.placement for p in plans)],
        ["learners", *(_learners(p.layout) for p in plans)],
        ["training", *(_training(p.method) for p in plans)],
        ["engines", *(_engines(p) for p in plans)],
        ["fits", *("yes" if p.fits else f"no: {'; '.join(p.misfits)}" for p in plans)],
        ["nearest that fits", *(_nearest(here, fitting) for here, fitting in made)],
    ]


def _training(method: Method) -> str:
    moments = "divided" if method.distributed else "whole"
    kernels = " by Transformer Engine" if method.fused else ""
    return f"{method.dtype}{kernels}, moments {moments}{', layers again' if method.recompute else ''}"


def _nearest(here: Plan, fitting: Plan | None) -> str:
    if fitting is None:
        return f"none up to {MOST_DEVICES} devices"
    if fitting is here:
        return "this one"
    return f"{_devices(fitting.cluster)}: {fitting.placement}, {_learners(fitting.layout)}; {_engines(fitting)}"


def _learners(layout: Layout) -> str:
    parts = f"tp {layout.tensor} cp {layout.context} pp {layout.pipeline} dp {layout.data}"
    return f"{layout.world}: {parts}, ep {layout.expert}"


def _engines(p: Plan) -> str:
    return f"{p.engines}: tp {p.engine_layout.tensor} pp {p.engine_layout.pipeline}"


def _devices(cluster: Cluster) -> str:
    return f"{cluster.devices}x{cluster.accelerator.name}"


def _time_rows(times: tuple[LoadTime, ...]) -> list[list[str]]:
    def row(name: str, values: list[float]) -> list[str]:
        return [name, *(f"{value:.2f}" if 0 < value < 10 else f"{value:.0f}" for value in values)]

    return [
        ["steps", *(str(time.load.steps) for time in times)],
        ["tokens of a step", *(f"{time.load.tokens:,.0f}" for time in times)],
        row("rollout", [time.rollout for time in times]),
        row("old log-probs", [time.logprobs.total if time.logprobs else 0.0 for time in times]),
        *(row(f"update: {part}", [getattr(time.update, part) for time in times]) for part in UPDATE_PARTS),
        row("weight exchange", [time.exchange for time in times]),
        row("a step", [time.step for time in times]),
        row("days in all", [time.total / 86400 for time in times]),
    ]


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f}"


def _size(value: float) -> str:
    return f"{value / 1e12:.2f} TB" if value >= 1e12 else f"{value / 1e9:.1f} GB"
