"""Picture of scores over stages: one line per benchmark with its interval, the whole in black."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.evaluation.types import Evaluation

# Okabe and Ito's palette: told apart by readers with colour-vision deficiencies too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = "osD^vP*X"


def plot_stages(evaluations: Mapping[str, Evaluation], path: Path, title: str = "Held-out scores over stages") -> Path:
    """Writes a PNG (or whatever `path` ends in). evaluations: stage -> evaluation, in the order of the recipe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = list(evaluations)
    names = list(dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.benchmarks))
    figure = Figure(figsize=(1.6 * max(4, len(stages)) + 2.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = [*names, "overall"]
    for number, name in enumerate(lines):
        found = [
            (position, evaluation.overall if name == "overall" else evaluation.benchmarks[name])
            for position, evaluation in enumerate(evaluations.values())
            if name == "overall" or name in evaluation.benchmarks
        ]
        # Side by side within a stage, so that intervals do not hide each other.
        shift = 0.5 * ((number + 0.5) / len(lines) - 0.5)
        values = [100 * score.avg.value for _, score in found]
        axes.errorbar(
            [position + shift for position, _ in found],
            values,
            yerr=[
                [value - 100 * score.avg.low for value, (_, score) in zip(values, found, strict=True)],
                [100 * score.avg.high - value for value, (_, score) in zip(values, found, strict=True)],
            ],
            label=name,
            color="black" if name == "overall" else COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linewidth=2.2 if name == "overall" else 1.3,
            markersize=5,
            capsize=3,
        )
    first = next(iter(evaluations.values())).overall
    axes.set_xticks(range(len(stages)), stages)
    axes.set_ylim(-2, 102)
    axes.set_ylabel(f"avg@{first.samples}, percent ({100 * first.avg.confidence:g} % intervals)")
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
