"""The run report: one file, nothing outside it, and every number of the run in it."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import random
import re

import numpy as np
import pytest

from components.lineage.graph import lineage
from components.lineage.report.model import RunReport, StageEntry, scores_from_metrics
from components.lineage.report.plots import PANELS, panels
from components.lineage.report.write import write_report
from components.rl.losses import IcePopCorrection
from components.rl.mismatch import mismatch_report


def a_run(graph=None) -> RunReport:
    """A run with the shape of the nano recipe's."""
    noise = random.Random(0)
    metrics = {
        "base": {"loss": [(s, 4.5 * math.exp(-s / 80) + 0.9) for s in range(1, 300)]},
        "sft": {
            "loss": [(s, 1.2 * math.exp(-s / 60) + 0.2 + noise.gauss(0, 0.02)) for s in range(1, 400)],
            "held_out/entropy": [(100, 0.7), (200, 0.52), (300, 0.41), (400, 0.33)],
        },
    }
    for index, node in enumerate(("rlvr-1", "rlvr-2", "rlhf")):
        metrics[node] = {
            "reward/mean": [(s, 0.4 + 0.1 * index + s / 400 + noise.gauss(0, 0.03)) for s in range(1, 81)],
            "mismatch/mean_abs_dlogp": [(s, 1e-3 * math.exp(noise.gauss(0, 0.3))) for s in range(1, 81)],
            "mismatch/max_abs_dlogp": [(s, 0.5 * math.exp(noise.gauss(0, 0.5))) for s in range(1, 81)],
            "mismatch/rejected_low": [(s, abs(noise.gauss(0, 5e-4))) for s in range(1, 81)],
            "rollout/length_mean": [(s, 60 + s / 4 + noise.gauss(0, 2)) for s in range(1, 81)],
            "policy/entropy": [(s, 0.4 - s / 500 + noise.gauss(0, 0.01)) for s in range(1, 81)],
        }
    for index, model in enumerate(("base", "sft", "rlvr-1", "rlvr-2", "rlhf")):
        values = {}
        for offset, name in enumerate(("math", "code", "logic", "science", "overall")):
            value = min(0.95, 0.05 + 0.17 * index + 0.03 * offset)
            values |= {
                f"benchmark/{name}/{end}": [(0, value + d)] for end, d in (("avg", 0), ("low", -0.03), ("high", 0.03))
            }
        metrics[f"evaluate-{model}"] = values
    stages = [
        StageEntry("corpus", "reused", summary={"sft": 4000, "sources": 1}, uri="s3://ring/p/corpus/ab/attempts/1")
    ]
    stages.append(StageEntry("decontaminate", "done", 8.2, 0.3, summary={"removed": 12, "review": 3}))
    clock = 9.0
    for node, seconds in (("base", 70), ("sft", 150), ("evaluate-sft", 12), ("rlvr-1", 130), ("rlvr-2", 128)):
        stages.append(StageEntry(node, "done", seconds, clock, summary={"loss": 0.2134567, "steps": 400}))
        clock += seconds
    stages.append(StageEntry("rlhf", "failed", 20, clock, error="Diverged: step 12: loss is nan <script>"))
    stages.append(StageEntry("release", "skipped"))
    return RunReport(
        recipe="nano",
        run_name="brave-otter",
        succeeded=False,
        seconds=clock + 20,
        created="2026-01-01 12:00 UTC",
        stages=stages,
        metrics=metrics,
        scores=scores_from_metrics(metrics),
        links={"MLflow run": "http://127.0.0.1:5000/#/x", "Prefect run": "http://127.0.0.1:4200/runs/x"},
        facts={"commit": "c0ffee", "seed": "0"},
        lineage=graph,
    )


@pytest.fixture
def graph(store, publish):
    sources = [{"uri": "generator://nano", "sha256": "a" * 64, "licence": "apache-2.0", "records": 4000}]
    corpus = publish("corpus", "corpus", files={"sources.json": json.dumps(sources)})
    clean = publish("decontaminate", "clean-corpus", {}, {"corpus": corpus})
    base = publish("base", "checkpoint", {}, {"data": clean})
    model = publish("sft", "checkpoint", {}, {"model": base, "data": clean})
    evaluations = {"evaluate-sft": publish("evaluate-sft", "evaluation", {}, {"model": model, "corpus": corpus})}
    reward = publish("reward-model", "reward-model", {}, {"model": model, "data": clean})
    for index in (1, 2):
        model = publish(f"rlvr-{index}", "checkpoint", {"n": index}, {"model": model, "data": clean})
        evaluations[f"evaluate-rlvr-{index}"] = publish(
            f"evaluate-rlvr-{index}", "evaluation", {}, {"model": model, "corpus": corpus}
        )
    model = publish("rlhf", "checkpoint", {}, {"model": model, "reward": reward, "data": clean})
    return lineage(store, publish("release", "release", {}, {"model": model, "data": clean, **evaluations}))


def test_the_report_is_one_complete_file(tmp_path, graph):
    run = a_run(graph)
    html = write_report(tmp_path / "deep" / "report.html", run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert re.findall(r'(?:src|href)="(?!data:|http://127)', html) == []
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(images) >= 9
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    for text in (
        "brave-otter",
        "did not succeed",
        "56.0",
        "53.0 to 59.0",
        "removed",
        "generator://nano",
        "flowchart LR",
    ):
        assert text in html, text
    assert len(html) < 2_000_000


def test_every_mismatch_quantity_of_a_step_is_drawn():
    """What components.rl measures of trainer and engine has a plot: mean and max |dlogp|, KL, rejected low and high,
    effective sample size, quantiles of k, entropy of kept and masked tokens, gradient norm."""
    measured = set(mismatch_report(np.log([0.5, 0.1]), np.log([0.4, 0.2]), IcePopCorrection(0.5, 5.0)))
    drawn = {name for panel in PANELS for name in (*panel.names, *(beside for beside, _ in panel.beside))}
    # A signed mean, a count of what is not finite and a comparison of losses are for the guard and the benches.
    aside = {"mean_dlogp", "nonfinite", "outside_low", "outside_high"}
    assert measured - {f"mismatch/{name}" for name in aside} <= drawn
    assert {"policy/entropy_kept", "policy/entropy_masked", "train/grad_norm", "staleness/stale_fraction"} <= drawn
    series = {name: [(step, 0.1 + step) for step in range(5)] for name in drawn}
    titles = [title for title, _ in panels(dataclasses.replace(a_run(), metrics={"rlvr-1": series}))]
    assert {"Effective sample size", "KL(infer || train)"} <= set(titles)


def test_the_time_of_an_rl_step_is_split_and_what_is_outside_rollout_and_update_is_summed(tmp_path):
    seconds = {"step": 10.0, "rollout": 6.0, "update": 3.0, "old_logprobs": 0.75, "orchestration": 0.25}
    series = {
        f"time/{part}_s": [(step, 100.0 if step == 0 else value) for step in range(4)]
        for part, value in seconds.items()
    }
    series["time/checkpoint_s"] = [(3, 0.6)]
    run = dataclasses.replace(a_run(), metrics={"rlvr-1": series, "sft": {"loss": [(0, 1.0)]}})
    html = write_report(tmp_path / "report.html", run).read_text()
    table = html[html.index("Time of an RL step") :].split("</table>")[0]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table.replace('<br><span class="ci">', " ").replace("</span>", ""))
    row = dict(zip(cells[: len(cells) // 2], cells[len(cells) // 2 :], strict=True))
    assert row["stage"] == "rlvr-1"
    assert row["step"] == "10.000 s"
    assert row["rollout"] == "6.000 s 60.0 %"
    assert row["checkpoint"] == "0.200 s 2.0 %"
    assert row["outside rollout and update"] == "10.0 %"


def test_sections_without_data_are_left_out(tmp_path):
    run = dataclasses.replace(a_run(), metrics={}, scores=(), lineage=None, stages=[StageEntry("corpus", "reused")])
    html = write_report(tmp_path / "report.html", run).read_text()
    assert "<img" not in html
    assert "Training" not in html
    assert "Stages" in html


def test_scores_come_from_what_the_evaluate_stage_logs():
    scores = scores_from_metrics({"evaluate-sft": {"benchmark/a/b/avg": [(0, 0.5)], "benchmark/a/b/low": [(0, 0.4)]}})
    assert [(s.model, s.benchmark, s.value, s.low, s.high) for s in scores] == [("sft", "a/b", 0.5, 0.4, 0.5)]
    assert scores_from_metrics({"sft": {"benchmark/a/avg": [(0, 0.5)]}}) == []
