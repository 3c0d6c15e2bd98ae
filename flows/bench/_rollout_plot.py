"""The picture of `ringflow bench rollout`: speed over the synchronous loop, measured, simulated, and for Ring-1T."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.lineage.report.plots import PALETTE

KINDS = ("rollout", "end to end")


def draw(ratios: Mapping[str, Mapping[tuple[str, str], float]], path: Path) -> Path:
    """ratios: source (measured, simulated, ...) -> (mode, kind) -> times the synchronous loop."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    bars = list(dict.fromkeys(key for values in ratios.values() for key in values))
    figure = Canvas(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(ratios)
    for number, (colour, (source, values)) in enumerate(zip(PALETTE, ratios.items(), strict=False)):
        places = [at + (number + 0.5) * width - 0.4 for at, key in enumerate(bars) if key in values]
        heights = [values[key] for key in bars if key in values]
        axes.bar(places, heights, width * 0.92, color=colour, label=source)
        for place, height in zip(places, heights, strict=True):
            axes.annotate(f"{height:.2f}", (place, height), ha="center", va="bottom", fontsize=8)
    axes.axhline(1, color="#444", linewidth=1)
    axes.set_xticks(range(len(bars)), [f"{mode}\n{kind}" for mode, kind in bars])
    axes.set_ylabel("times the synchronous loop")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
