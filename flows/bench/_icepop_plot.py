"""Curves and figures of `ringflow bench icepop`: one colour per loss, a thin line per seed, their mean in bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from components.lineage.report.plots import PALETTE
from flows.bench import Figure

Run = Mapping[str, Sequence[tuple[int, float]]]

PANELS = (
    ("mean |dlogp|, trainer to engine", "mismatch/mean_abs_dlogp", True),
    ("max |dlogp|", "mismatch/max_abs_dlogp", True),
    ("reward", "reward/mean", False),
    ("held-out accuracy, unrounded weights", "held_out/accuracy", False),
    ("tokens outside [0.5, 5]", "mismatch/outside", False),
    ("gradient norm before clipping", "train/grad_norm", True),
)
WINDOW = 10
TAIL = 0.1


def draw(results: Mapping[str, Sequence[Run]], folder: Path, title: str, name: str) -> Path:
    """Writes `name`.png. results: loss -> one run per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(11, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, metric, logarithmic) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for colour, (loss, runs) in zip(PALETTE, results.items(), strict=False):
            series = [smoothed(run.get(metric, ())) for run in runs]
            for x, y in series:
                axes.plot(x, y, color=colour, alpha=0.35, linewidth=0.9)
            axes.plot(*mean_of(series), color=colour, linewidth=2, label=loss)
        if logarithmic:
            axes.set_yscale("log")
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(color="#e6eaef")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=90)
    return path


def figures(results: Mapping[str, Sequence[Run]]) -> dict[str, Figure]:
    """Over the seeds: highest and last held-out accuracy and reward, mean |dlogp| at both ends, masked tokens."""
    found: dict[str, Figure] = {}
    for loss, runs in results.items():
        best = [max(value for _, value in run["held_out/accuracy"]) for run in runs]
        found[f"{loss}: best held-out accuracy"] = Figure.of([100 * value for value in best], "%")
        found[f"{loss}: last held-out accuracy"] = Figure.of(
            [100 * run["held_out/accuracy"][-1][1] for run in runs], "%"
        )
        found[f"{loss}: reward, last tenth"] = Figure.of([tail(run["reward/mean"]) for run in runs], "")
        found[f"{loss}: mean |dlogp|, first tenth"] = Figure.of(
            [head(run["mismatch/mean_abs_dlogp"]) for run in runs], "nats"
        )
        found[f"{loss}: mean |dlogp|, last tenth"] = Figure.of(
            [tail(run["mismatch/mean_abs_dlogp"]) for run in runs], "nats"
        )
        largest = [max(value for _, value in run["mismatch/max_abs_dlogp"]) for run in runs]
        found[f"{loss}: max |dlogp|"] = Figure.of(largest, "nats")
        outside = [100 * float(np.mean([value for _, value in run["mismatch/outside"]])) for run in runs]
        found[f"{loss}: tokens outside [0.5, 5]"] = Figure.of(outside, "%")
    return found


def smoothed(series: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Means over WINDOW steps of what is logged every step; the rest as it is."""
    steps, values = [step for step, _ in series], [value for _, value in series]
    if len(steps) < 3 * WINDOW:
        return steps, values
    kernel = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")
    return steps[WINDOW - 1 :], kernel.tolist()


def mean_of(series: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """The mean at the steps that every run has: a run that ended early ends the mean."""
    shared = set.intersection(*(set(x) for x, _ in series)) if series else set()
    at = sorted(shared)
    lookup = [dict(zip(x, y, strict=True)) for x, y in series]
    return at, [float(np.mean([values[step] for values in lookup])) for step in at]


def head(series: Sequence[tuple[int, float]]) -> float:
    return float(np.mean([value for _, value in series[: max(1, round(TAIL * len(series)))]]))


def tail(series: Sequence[tuple[int, float]]) -> float:
    return float(np.mean([value for _, value in series[-max(1, round(TAIL * len(series))) :]]))
