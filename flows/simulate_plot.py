"""The picture of `ringflow simulate`: a bar per stage, stacked by what the time went to, with its p10 to p90."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.failures import BadInput
from components.simulation.stage import PARTS
from flows.simulate import QUANTILES, Simulated

# Work in blues and greens, what is lost in warm colours, what is neither in greys.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#7CC9A6", "#E69F00", "#F0E442", "#D55E00", "#CC79A7", "#777777", "#BBBBBB")
LEAST = 0.002  # of the whole: a part below it is not in the legend


def draw_picture(made: Simulated, path: Path) -> Path:
    """Raises BadInput for a kind of file that cannot be drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    drawn = made.drawn
    wall = drawn.wall()
    divided, unit = (1.0, "seconds") if np.median(wall) < 7200 else (3600.0, "hours")
    seconds = drawn.seconds.mean(0) / divided
    stages = [stage.name for stage in drawn.stages]
    figure = Canvas(figsize=(9.0, 1.6 + 0.34 * len(stages)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows, left = np.arange(len(stages)), np.zeros(len(stages))
    for part, (name, colour) in enumerate(zip(PARTS, COLOURS, strict=True)):
        widths = seconds[:, part]
        label = name if widths.sum() >= LEAST * seconds.sum() else None
        axes.barh(rows, widths, left=left, height=0.72, color=colour, label=label)
        left = left + widths
    low, _, high = np.quantile(drawn.seconds.sum(2), QUANTILES, axis=0) / divided
    for row in rows:
        axes.plot([low[row], high[row]], [row, row], color="black", linewidth=1.4, solid_capstyle="butt")
        axes.plot([low[row], high[row]], [row, row], "|", color="black", markersize=7)
        text = f"{left[row]:,.1f}" if left[row] >= 0.05 else f"{left[row]:.2f}"
        axes.annotate(
            text, (max(high[row], left[row]), row), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(rows, stages, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(high.max(), left.max()))
    axes.set_xlabel(f"{unit}: mean of {len(wall)} draws, black from p10 to p90")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="best")
    p10, p50, p90 = np.quantile(wall, QUANTILES) / divided
    hours = np.median(drawn.device_hours().sum(1))
    where = made.where.partition(":")[0]
    axes.set_title(
        f"{made.recipe} on {where}\nsimulated: {p50:,.1f} {unit} ({p10:,.1f} to {p90:,.1f}), {hours:,.1f} device-hours",
        fontsize=9,
        loc="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        raise BadInput(
            f"cannot draw {path.suffix or 'a file without an ending'}", where="--plot", remedy="Name a .png or .svg"
        ) from error
    return path
