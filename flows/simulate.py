"""`ringflow simulate`: what a recipe costs on a cluster, and where the time goes, out of many plays of its stages.

On `--devices` the times are those of the planner's cost model, on `--measured` those of this machine as a finished run
measured them. The table's hours are means over the plays, so that rows and columns add up; quantiles stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import numpy as np

from components.failures import BadInput
from components.model.accelerators import parse_cluster
from components.model.memory import METHODS
from components.model.planner import Plan, plan, smallest
from components.simulation.cluster import Assumed, stages_on
from components.simulation.draw import Drawn, draw
from components.simulation.here import stages_here
from components.simulation.measured import Rates
from components.simulation.stage import PARTS, StageTimes, Weather, best_interval
from flows.graph import Graph

QUANTILES = (0.1, 0.5, 0.9)
# Parts as columns of 80 characters: what belongs together stays together.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "comp.": ("compute",),
    "comm.": ("communication",),
    "roll.": ("rollout",),
    "exch.": ("exchange",),
    "late": ("stragglers",),
    "save": ("checkpoints",),
    "fail": ("lost work", "restarts"),
    "wait": ("waiting",),
    "orch": ("orchestration",),
}


@dataclass(frozen=True)
class Simulated:
    """where: the cluster with its layout, or the run that measured this machine. price: of one device-hour."""

    recipe: str
    where: str
    weather: Weather
    drawn: Drawn
    price: float | None = None
    assumed: Assumed | None = None
    measured: str = ""


def chosen_plan(graph: Graph, devices: str, method: str | None, mean_length: float) -> Plan:
    """The plan by `method`; without one, what the code does today where that fits, else the extended one.

    Raises BadInput when it does not fit, with the nearest cluster on which it does.
    """
    cluster = parse_cluster(devices)
    if method is not None and method not in METHODS:
        raise BadInput(f"unknown method {method!r}", where="--method", remedy=f"Take {' or '.join(METHODS)}")
    made = None
    for candidate in [METHODS[method]] if method else METHODS.values():
        made = plan(graph.recipe, cluster, candidate(graph.recipe.execution), mean_length)
        if made.fits:
            return made
    assert made is not None
    found = smallest(graph.recipe, cluster, made.method, mean_length)
    more = f"{found.cluster.devices}x{cluster.accelerator.name} would do" if found else "no number of them would do"
    raise BadInput(f"{graph.recipe.name} does not fit: {'; '.join(made.misfits)}", where=devices, remedy=more)


def simulate_on(
    graph: Graph, made: Plan, assumed: Assumed, weather: Weather, draws: int, seed: int, price: float | None
) -> Simulated:
    layout = made.layout
    where = (
        f"{made.cluster.devices}x{made.cluster.accelerator.name}, {made.method.name}, {made.placement}: {layout.world} "
        f"learners (tp {layout.tensor} cp {layout.context} pp {layout.pipeline} dp {layout.data}, ep {layout.expert}), "
        f"{made.engines} engines"
    )
    stages = stages_on(graph.recipe, nodes_of(graph), made, assumed)
    return Simulated(graph.recipe.name, where, weather, draw(stages, weather, draws, seed), price, assumed)


def simulate_here(
    graph: Graph, rates: Rates, weather: Weather, draws: int, seed: int, price: float | None
) -> Simulated:
    stages = stages_here(graph.recipe, nodes_of(graph), rates)
    where = f"{rates.devices} devices here: rates of {rates.source}"
    drawn = draw(stages, weather, draws, seed)
    return Simulated(graph.recipe.name, where, weather, drawn, price, measured=rates.source)


def nodes_of(graph: Graph) -> list[tuple[str, str]]:
    return [(node.name, node.stage.type) for node in graph.nodes.values()]


def as_json(made: Simulated) -> dict[str, Any]:
    """Seconds and device-hours; quantiles are over the draws, parts are means."""
    drawn, weather = made.drawn, made.weather
    hours = drawn.device_hours()
    return {
        "recipe": made.recipe,
        "where": made.where,
        "simulated": True,
        "draws": len(drawn.seconds),
        "weather": {name: None if value == inf else value for name, value in asdict(weather).items()},
        "assumed": asdict(made.assumed) if made.assumed else None,
        "measured": made.measured or None,
        "wall_seconds": _spread(drawn.wall()),
        "device_hours": _spread(hours.sum(1)),
        "price": made.price,
        "cost": _spread(hours.sum(1) * made.price) if made.price is not None else None,
        "seconds": _parts(drawn.seconds.sum(1)),
        "stages": [
            {
                "stage": stage.name,
                "devices": stage.devices,
                "steps": stage.count,
                "step_seconds": stage.step_s,
                "without_failures": stage.sum_s,
                "wall_seconds": _spread(drawn.seconds[:, at].sum(1)),
                "device_hours": _spread(hours[:, at]),
                "failures": float(drawn.failures[:, at].mean()),
                "checkpoint_seconds": stage.checkpoint_s,
                "checkpoint_every": stage.checkpoint_every or None,
                "suggested_checkpoint_every": best_interval(stage, weather),
                "seconds": _parts(drawn.seconds[:, at]),
            }
            for at, stage in enumerate(drawn.stages)
        ],
    }


def print_simulated(made: Simulated) -> None:
    from flows.cli.output import print_table

    drawn, weather = made.drawn, made.weather
    shown, unit = _unit(float(np.median(drawn.wall())))
    where, _, how = made.where.partition(": ")
    print(f"{made.recipe} on {where}\n{how}")
    print(f"{_told(weather)}\nsimulated, not measured: {len(drawn.seconds)} draws\n")
    seconds = drawn.seconds.mean(0) / shown
    rows = []
    for at, stage in enumerate(drawn.stages):
        cells = [_cell(sum(seconds[at, PARTS.index(part)] for part in parts)) for parts in COLUMNS.values()]
        rows.append([stage.name, _cell(seconds[at].sum()), *cells])
    total = seconds.sum(0)
    cells = [_cell(sum(total[PARTS.index(part)] for part in parts)) for parts in COLUMNS.values()]
    rows.append(["all", _cell(total.sum()), *cells])
    rows.append(["%", "100", *(_share(total, parts) for parts in COLUMNS.values())])
    print_table([f"mean {unit}", "wall", *COLUMNS], rows, right=["wall", *COLUMNS])
    print()
    print_table(*_quantile_table(made, shown, unit), right=["p10", "p50", "p90"])
    suggested = [row for stage in drawn.stages if (row := _interval(stage, weather))]
    if suggested:
        print()
        columns = ["checkpoints every", "recipe", "Daly", "s each", "failures"]
        failures = {stage.name: drawn.failures[:, at].mean() for at, stage in enumerate(drawn.stages)}
        rows = [[*row, f"{failures[row[0]]:.2f}"] for row in suggested]
        print_table(columns, rows, right=columns[1:])


def _quantile_table(made: Simulated, shown: float, unit: str) -> tuple[list[str], list[list[str]]]:
    hours = made.drawn.device_hours().sum(1)
    rows = [[f"wall time, {unit}", *_three(made.drawn.wall() / shown)], ["device-hours", *_three(hours)]]
    if made.price is not None:
        rows.append([f"cost at {made.price:g} a device-hour", *_three(hours * made.price)])
    return ["over the draws", "p10", "p50", "p90"], rows


def _interval(stage: StageTimes, weather: Weather) -> list[str] | None:
    """[name, steps in the recipe, steps by Daly, seconds of a checkpoint] of a stage that pays for checkpoints."""
    if not stage.checkpoint_s or not stage.checkpoint_every:
        return None
    best = best_interval(stage, weather)
    daly = "never" if best is None or best >= stage.count else str(best)
    return [stage.name, str(stage.checkpoint_every), daly, _cell(stage.checkpoint_s)]


def _told(weather: Weather) -> str:
    failing = f"MTBF {weather.mtbf_h:,.0f} h a device" if weather.mtbf_h < inf else "nothing fails"
    waiting = f"nodes after {weather.wait_s / 60:g} min" if weather.wait_s else "no queue"
    return f"{failing}, {waiting}, noise {weather.noise:g}"


def _unit(wall: float) -> tuple[float, str]:
    """(seconds of a unit, its name) in which a wall time has few digits."""
    return (1.0, "s") if wall < 7200 else (3600.0, "h")


def _cell(value: float) -> str:
    if value < 0.005:
        return ""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _share(total: np.ndarray, parts: Sequence[str]) -> str:
    share = 100 * sum(total[PARTS.index(part)] for part in parts) / max(total.sum(), 1e-12)
    return f"{share:.1f}" if share >= 0.05 else ""


def _three(values: np.ndarray) -> list[str]:
    return [f"{value:,.1f}" if value >= 10 else f"{value:.2f}" for value in np.quantile(values, QUANTILES)]


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(values, QUANTILES)
    return {"p10": float(low), "p50": float(middle), "p90": float(high), "mean": float(values.mean())}


def _parts(seconds: np.ndarray) -> dict[str, float]:
    return {part: float(seconds[:, at].mean()) for at, part in enumerate(PARTS)}
