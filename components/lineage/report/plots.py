"""The report's plots, as PNG bytes: matplotlib without a display, one style, colours that survive colour blindness."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.lineage.report.model import RunReport, Score, Series, StageEntry

# Okabe and Ito's palette.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STATE_COLOURS = {"done": "#0072B2", "failed": "#D55E00", "stopped": "#E69F00"}
SMOOTHED_FROM = 40


@dataclass(frozen=True)
class Panel:
    """A line plot: every node that logged one of `names` is drawn; the first name a node has is the one taken.

    beside: (metric, line style) drawn in the same node's colour, for pairs and quantiles.
    """

    title: str
    names: tuple[str, ...]
    ylabel: str
    log: bool = False
    nodes: str = ""
    band: tuple[float, float] | None = None
    beside: tuple[tuple[str, str], ...] = ()


K_QUANTILES = (
    ("mismatch/k_q0.1", ":"),
    ("mismatch/k_q1", "--"),
    ("mismatch/k_q99", "--"),
    ("mismatch/k_q99.9", ":"),
)
PANELS = (
    Panel("Reward over RL steps", ("reward/mean",), "mean reward"),
    Panel("Loss: pre-training, SFT and reward model", ("loss",), "loss"),
    Panel("Held-out entropy of SFT checkpoints; green: published", ("held_out/entropy",), "nats", band=(0.3, 0.5)),
    Panel("Policy entropy over RL steps", ("policy/entropy",), "nats per token"),
    Panel("Mismatch: mean |dlogp|, trainer to engine", ("mismatch/mean_abs_dlogp",), "nats", log=True),
    Panel("Mismatch: max |dlogp|", ("mismatch/max_abs_dlogp",), "nats", log=True),
    Panel("Tokens rejected by the mask, low side", ("mismatch/rejected_low",), "fraction of tokens"),
    Panel("Tokens rejected by the mask, high side", ("mismatch/rejected_high",), "fraction of tokens"),
    Panel("KL(infer || train)", ("mismatch/infer_train_kl",), "nats per token", log=True),
    Panel("k: median, 1 and 99 % (dashed), 0.1 and 99.9 %", ("mismatch/k_q50",), "k", log=True, beside=K_QUANTILES),
    Panel("Effective sample size", ("mismatch/ess",), "fraction of tokens"),
    Panel(
        "Entropy of kept tokens; dashed: of masked ones",
        ("policy/entropy_kept",),
        "nats",
        beside=(("policy/entropy_masked", "--"),),
    ),
    Panel("Gradient norm before clipping", ("train/grad_norm",), "norm", log=True),
    Panel("Tokens drawn by older weights", ("staleness/stale_fraction",), "fraction of tokens"),
    Panel("Response length", ("rollout/length_mean",), "tokens"),
)


def panels(report: RunReport) -> list[tuple[str, bytes]]:
    """[(title, PNG)] of every panel that has data, then of the scores and the timeline."""
    drawn = []
    for panel in PANELS:
        lines = _lines(panel, report.metrics)
        if lines:
            drawn.append((panel.title, _line_plot(panel, lines, report.metrics)))
    return drawn


def score_plot(scores: Sequence[Score]) -> bytes:
    """Accuracy over the models of the pipeline, one line per benchmark, bars are the confidence intervals."""
    models = list(dict.fromkeys(score.model for score in scores))
    benchmarks = list(dict.fromkeys(score.benchmark for score in scores))

    def draw(axes: Any) -> None:
        for index, benchmark in enumerate(benchmarks):
            mine = [score for score in scores if score.benchmark == benchmark]
            # Points of different benchmarks stand side by side, so that their intervals can be told apart.
            shift = (index - (len(benchmarks) - 1) / 2) * 0.06
            x = [models.index(score.model) + shift for score in mine]
            y = [100 * score.value for score in mine]
            error = [
                [100 * max(0.0, score.value - score.low) for score in mine],
                [100 * max(0.0, score.high - score.value) for score in mine],
            ]
            whole = benchmark == "overall"
            axes.errorbar(
                x,
                y,
                error,
                label=benchmark,
                marker="o",
                markersize=5,
                capsize=3,
                color="#000000" if whole else PALETTE[index % (len(PALETTE) - 1)],
                linewidth=2.2 if whole else 1.4,
                elinewidth=1,
            )
        axes.set_xticks(range(len(models)), models)
        axes.set_xlim(-0.35, len(models) - 0.65)
        axes.set_ylim(0, max(5.0, min(105.0, 1.12 * 100 * max(score.high for score in scores))))
        axes.set_ylabel("score, %")
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))

    return _png(draw, (9.6, 4.4))


def timeline(stages: Sequence[StageEntry]) -> bytes | None:
    """Wall time of each stage as bars from the run's start; reused stages are marked. None when nothing ran."""
    shown = [stage for stage in stages if stage.state != "skipped"]
    if not any(stage.seconds for stage in shown):
        return None

    def draw(axes: Any) -> None:
        clock = 0.0
        end = 0.0
        for row, stage in enumerate(shown):
            start = clock if stage.started_s is None else stage.started_s
            if stage.state == "reused":
                axes.plot([start], [row], marker="D", color="#8a97a8", markersize=5)
                axes.annotate(
                    "reused", (start, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
                )
                continue
            axes.barh(row, stage.seconds, left=start, height=0.6, color=STATE_COLOURS.get(stage.state, "#0072B2"))
            label = _duration(stage.seconds) + ("" if stage.state == "done" else f" ({stage.state})")
            axes.annotate(
                label, (start + stage.seconds, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
            )
            clock = start + stage.seconds
            end = max(end, clock)
        axes.set_yticks(range(len(shown)), [stage.node for stage in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, end * 1.12)
        axes.set_xlabel("seconds since the run's start")
        axes.grid(axis="y", visible=False)

    return _png(draw, (9.6, 0.8 + 0.3 * len(shown)))


def _lines(panel: Panel, metrics: Mapping[str, Mapping[str, Series]]) -> dict[str, Series]:
    lines = {}
    for node, series in metrics.items():
        name = next((name for name in panel.names if series.get(name)), None)
        if name is not None:
            lines[node] = sorted(series[name])
    return lines


def _line_plot(panel: Panel, lines: Mapping[str, Series], metrics: Mapping[str, Mapping[str, Series]]) -> bytes:
    def draw(axes: Any) -> None:
        for index, (node, series) in enumerate(lines.items()):
            steps, values = [step for step, _ in series], [value for _, value in series]
            colour = PALETTE[index % len(PALETTE)]
            many = len(values) >= SMOOTHED_FROM
            few = {"marker": "o", "markersize": 4} if len(values) < 12 else {}
            axes.plot(steps, values, color=colour, alpha=0.25 if many else 1, linewidth=1 if many else 1.6, **few)
            if many:
                axes.plot(steps, _smoothed(values), color=colour, linewidth=1.8)
            axes.plot([], [], color=colour, linewidth=1.8, label=node)
            for name, style in panel.beside:
                beside = sorted(metrics[node].get(name, ()))
                axes.plot(*zip(*beside, strict=True), color=colour, linewidth=1, linestyle=style) if beside else None
        if panel.band:
            axes.axhspan(*panel.band, color="#009E73", alpha=0.12, linewidth=0)
        positive = all(value > 0 for series in lines.values() for _, value in series)
        if panel.log and positive:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(panel.ylabel)
        axes.legend(frameon=False, fontsize=8)

    return _png(draw, (5.4, 3.0))


def _smoothed(values: Sequence[float]) -> list[float]:
    """Centred moving average over a tenth of the points; its window shrinks at both ends."""
    half = max(1, len(values) // 20)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _png(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure without pyplot: no global state, safe in a server's threads.
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw(axes)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=140)
    del canvas
    return data.getvalue()


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
