"""The run report: one self-contained HTML page that says what a run did, what came out, and from what.

Everything is inside the file (PNG plots, SVG lineage, styles), so that it can be mailed, attached to MLflow and opened
in ten years. Order: did it work, the scores, how training went, where the time went, the data, the lineage.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from components.lineage.page import page, picture, sources_table
from components.lineage.render import render_mermaid, render_text
from components.lineage.report.model import RunReport, Score, StageEntry
from components.lineage.report.plots import panels, score_plot, timeline

STYLE = """<style>
.badge{display:inline-block;padding:.05rem .55rem;border-radius:.7rem;font-size:.8rem;font-weight:600}
.done{background:#dcebf7;color:#0b4f80}.reused{background:#edf0f4;color:#4a5768}
.failed,.stopped{background:#fbe3d6;color:#8a3a00}.skipped{background:#f5f5f5;color:#888}
.error{color:#8a3a00;white-space:pre-wrap}.ci{color:#66748a;font-size:.82rem}
figure{margin:0}figcaption{font-weight:600;font-size:.92rem;margin:.4rem 0 .1rem}
</style>"""
# Where the costs of the run go once they are known: after the page itself was drawn.
COSTS = "<!-- costs -->"
DATA_NODES = ("corpus", "decontaminate")
STEP_PARTS = ("rollout", "reward", "old_logprobs", "update", "exchange", "checkpoint", "orchestration")


def write_report(path: Path, run: RunReport) -> Path:
    """Writes the page and returns its path. Sections without data are left out."""
    parts = [STYLE, _head(run), _scores(run.scores), _training(run), _stages(run), _step_times(run)]
    parts += [COSTS, _data(run), _lineage(run)]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(f"{run.recipe}: {run.run_name}", "\n".join(part for part in parts if part)), encoding="utf-8")
    return path


def add_costs(path: Path, wall_s: float, rows: Sequence[tuple[str, float, float]]) -> None:
    """Fills in where the time beside the stages' own work went: (part, seconds, share of wall_s), the sum last."""
    lines = "".join(
        f'<tr><td>{escape(part)}</td><td class="n">{seconds:.2f} s</td><td class="n">{100 * share:.2f}</td></tr>'
        for part, seconds, share in rows
    )
    table = (
        f'<h2>Orchestration</h2><p class="muted">Wall time {_duration(wall_s)} without the stages\' own work.</p>'
        f'<table><tr><th>spent on</th><th class="n">time</th><th class="n">% of wall time</th></tr>{lines}</table>'
    )
    page_text = path.read_text(encoding="utf-8")
    path.write_text(page_text.replace(COSTS, table), encoding="utf-8")


def _head(run: RunReport) -> str:
    state = "done" if run.succeeded else "failed"
    text = "succeeded" if run.succeeded else "did not succeed"
    links = " · ".join(f'<a href="{escape(url, quote=True)}">{escape(name)}</a>' for name, url in run.links.items())
    facts = " · ".join(f"{escape(name)} <code>{escape(value)}</code>" for name, value in run.facts.items())
    lines = [
        f'<h1>{escape(run.recipe)} <span class="muted">{escape(run.run_name)}</span></h1>',
        f'<p><span class="badge {state}">{text}</span> in {_duration(run.seconds)}, {escape(run.created)}</p>',
    ]
    lines += [f"<p>{line}</p>" for line in (links, f'<span class="muted">{facts}</span>' if facts else "") if line]
    return "\n".join(lines)


def _scores(scores) -> str:
    if not scores:
        return ""
    models = list(dict.fromkeys(score.model for score in scores))
    benchmarks = list(dict.fromkeys(score.benchmark for score in scores))
    found = {(score.model, score.benchmark): score for score in scores}
    head = "".join(f'<th class="n">{escape(model)}</th>' for model in models)
    rows = []
    for benchmark in benchmarks:
        cells = "".join(_cell(found.get((model, benchmark))) for model in models)
        rows.append(f"<tr><th>{escape(benchmark)}</th>{cells}</tr>")
    metrics = ", ".join(dict.fromkeys(score.metric for score in scores))
    return (
        f'<h2>Scores over stages</h2><p class="muted">{escape(metrics)}, percent; the range is the confidence '
        f'interval.</p><div class="scroll"><table><tr><th>benchmark</th>{head}</tr>{"".join(rows)}</table></div>'
        f"{_image(score_plot(scores), 'Accuracy over stages')}"
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return '<td class="n">–</td>'
    interval = f"{100 * score.low:.1f} to {100 * score.high:.1f}"
    return f'<td class="n">{100 * score.value:.1f}<br><span class="ci">{interval}</span></td>'


def _training(run: RunReport) -> str:
    figures = [
        f"<figure><figcaption>{escape(title)}</figcaption>{_image(png, title)}</figure>" for title, png in panels(run)
    ]
    return f'<h2>Training</h2><div class="grid">{"".join(figures)}</div>' if figures else ""


def _stages(run: RunReport) -> str:
    rows = "".join(_stage_row(stage) for stage in run.stages)
    drawn = timeline(run.stages)
    return (
        '<h2>Stages</h2><div class="scroll"><table><tr><th>stage</th><th></th><th class="n">time</th><th>result</th>'
        f"</tr>{rows}</table></div>{_image(drawn, 'Wall time per stage') if drawn else ''}"
    )


def _stage_row(stage: StageEntry) -> str:
    shown = ", ".join(f"{name} {_number(value)}" for name, value in list(stage.summary.items())[:6])
    result = f'<div class="error">{escape(stage.error)}</div>' if stage.error else escape(shown)
    uri = f"<br><code>{escape(stage.uri)}</code>" if stage.uri else ""
    time = _duration(stage.seconds) if stage.seconds else ""
    return (
        f'<tr><td>{escape(stage.node)}</td><td><span class="badge {stage.state}">{stage.state}</span></td>'
        f'<td class="n">{time}</td><td class="wrap">{result}{uri}</td></tr>'
    )


def _step_times(run: RunReport) -> str:
    """Where the time of an RL step goes, per stage: means over its steps, without the first (it warms up)."""
    rows, parts = [], dict.fromkeys(STEP_PARTS)
    for node, series in run.metrics.items():
        if not series.get("time/step_s"):
            continue
        steps = sorted(step for step, _ in series["time/step_s"])[1:] or [series["time/step_s"][0][0]]
        mean = {
            name.removeprefix("time/").removesuffix("_s"): sum(v for s, v in values if s in set(steps)) / len(steps)
            for name, values in series.items()
            if name.startswith("time/") and name.endswith("_s")
        }
        whole = mean.pop("step")
        parts |= dict.fromkeys(mean)
        rows.append((node, len(steps), whole, mean))
    if not rows:
        return ""
    head = "".join(f'<th class="n">{escape(part)}</th>' for part in parts)
    body = ""
    for node, count, whole, mean in rows:
        cells = "".join(f'<td class="n">{_share(mean.get(part, 0.0), whole)}</td>' for part in parts)
        outside = 1 - sum(mean.get(part, 0.0) for part in ("rollout", "update")) / whole
        body += (
            f'<tr><th>{escape(node)}</th><td class="n">{count}</td><td class="n">{whole:.3f} s</td>{cells}'
            f'<td class="n">{100 * outside:.1f} %</td></tr>'
        )
    return (
        '<h2>Time of an RL step</h2><p class="muted">Means over the steps after the first; a checkpoint is spread over '
        'all steps.</p><div class="scroll"><table><tr><th>stage</th><th class="n">steps</th><th class="n">step</th>'
        f'{head}<th class="n">outside rollout and update</th></tr>{body}</table></div>'
    )


def _share(seconds: float, whole: float) -> str:
    return f'{seconds:.3f} s<br><span class="ci">{100 * seconds / whole:.1f} %</span>'


def _data(run: RunReport) -> str:
    entries = [stage for stage in run.stages if stage.node in DATA_NODES and stage.summary]
    if not entries and run.lineage is None:
        return ""
    rows = "".join(
        f'<tr><td>{escape(stage.node)}</td><td>{escape(name)}</td><td class="n">{escape(_number(value))}</td></tr>'
        for stage in entries
        for name, value in stage.summary.items()
    )
    counts = f'<table><tr><th>stage</th><th>count</th><th class="n"></th></tr>{rows}</table>' if rows else ""
    sources = f"<h3>Sources</h3>{sources_table(run.lineage)}" if run.lineage and run.lineage.sources else ""
    return f"<h2>Data and contamination</h2>{counts}{sources}"


def _lineage(run: RunReport) -> str:
    if run.lineage is None:
        return ""
    return (
        f'<h2>Lineage</h2><div class="scroll">{picture(run.lineage)}</div>'
        f"<details><summary>As text</summary><pre>{escape(render_text(run.lineage))}</pre></details>"
        f"<details><summary>As Mermaid</summary><pre>{escape(render_mermaid(run.lineage))}</pre></details>"
    )


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _number(value: float | int | str) -> str:
    if isinstance(value, str):
        return value if len(value) <= 60 else f"{value[:57]}..."
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
