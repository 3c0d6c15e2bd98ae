"""Stages' times: lengths, answers, what the plan says of a cluster, and rates fitted to a run whose rates are known."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from components.failures import BadInput
from components.model.accelerators import parse_cluster
from components.model.memory import today
from components.model.planner import plan
from components.recipe.load import load_recipe
from components.rl.simulator import Cluster
from components.simulation.cluster import Assumed, answers_of, stages_on
from components.simulation.here import records_of, stages_here
from components.simulation.measured import STEP_SHAPE, Recorded, fit, fitted, read_rates
from components.simulation.rollouts import Lengths, answering_s, interpolated, rollout_steps

RECIPES = Path(__file__).parents[3] / "flows" / "recipes"


def recipe(name: str, *overrides: str):
    return load_recipe(name, overrides, RECIPES)


def test_lengths_have_the_mean_and_the_longest_that_were_asked() -> None:
    lengths = Lengths(512, 100.0, 800.0)
    assert lengths.values.max() == 800
    assert lengths.values.mean() == pytest.approx(100, rel=0.01)
    drawn = [lengths(serial) for serial in range(1024)]
    assert sorted(drawn[:512]) == sorted(drawn[512:]) == sorted(lengths.values)
    assert drawn[:512] != drawn[512:]


def test_answers_take_their_tokens_over_the_engines_places() -> None:
    cluster = Cluster(2, 8, lambda batch: 0.01 + 0.001 * batch, 0.0, 0, 0.0, 0.0)
    # Equal lengths: every engine decodes 8 at a time.
    assert answering_s(64, cluster, 50, 50) == pytest.approx(4 * 50 * 0.018)
    assert answering_s(8192, cluster, 50, 50) == pytest.approx(512 * 50 * 0.018)
    assert answering_s(0, cluster, 50, 50) == 0
    step_s = interpolated(cluster.step_s, 8)
    assert [step_s(batch) for batch in (1, 5, 8)] == pytest.approx([0.011, 0.015, 0.018])


def test_a_cluster_s_stages_are_the_plan_s_steps_with_the_tail_of_the_answers() -> None:
    mini = recipe("ring-mini-2.0")
    nodes = [("decontaminate", "decontaminate"), ("base", "base"), ("evaluate-base", "evaluate"), ("sft", "sft")]
    nodes += [("rlhf", "rlhf"), ("release", "release")]
    made = plan(mini, parse_cluster("64xH100"), today(mini.execution))
    found = {stage.name: stage for stage in stages_on(mini, nodes, made, Assumed())}
    times = {time.load.name: time for time in made.times}
    assert [found[name].devices for name, _ in nodes] == [0, 0, 64, 64, 64, 64]
    assert found["sft"].step_s == pytest.approx(times["sft"].update.total)
    assert (found["sft"].count, found["sft"].checkpoint_every) == (3000, 100)
    # Eight nodes send and read the resume point of 195 GB at 2 GB/s each.
    assert found["sft"].checkpoint_s == pytest.approx(made.resume_bytes / 16e9)
    assert found["sft"].resume_s == pytest.approx(made.resume_bytes / 16e9)
    (step,) = found["rlhf"].steps
    learning = times["rlhf"].update.total + times["rlhf"].logprobs.total
    assert step["compute"] + step["communication"] == pytest.approx(learning, rel=0.01)
    assert step["rollout"] > times["rlhf"].rollout, "waits for the longest answer"
    assert step["exchange"] == times["rlhf"].exchange


def test_answers_of_an_evaluation_are_the_recipe_s() -> None:
    mini = recipe("ring-mini-2.0")
    known = {"aime25": 30, "hmmt25": 30, "arc-agi-1": 400}
    assert answers_of(mini, mini.evaluate, known, 7) == {
        **{"aime25": 30 * 64, "hmmt25": 30 * 16, "livecodebench": 7 * 4, "arc-agi-1": 400}
    }
    nano = recipe("nano")
    assert sum(answers_of(nano, nano.evaluate.for_base(), {}, 0).values()) == 5 * 128 * 2
    assert records_of(nano) == 24_000 + 14_000 + 7_000 + 3_200


class Machine:
    """A machine of known rates: what a run of nano would have recorded there."""

    STEP, TOKEN, LONGEST, DECODED, LEARN, TRAINED = 0.05, 2e-5, 0.004, 3e-5, 0.1, 4e-5

    def training(self, name: str, steps: int, tokens: int, every: int) -> Recorded:
        step_s, clock, points = self.STEP + self.TOKEN * tokens, 5.0, []
        for done in range(1, steps + 1):
            clock += step_s
            if done == 1 or done % 10 == 0:
                points.append((done, clock))
            clock += 0.4 if done % every == 0 and done < steps else 0.0
        settings = {"steps": str(steps), "tokens_per_step": str(tokens), "checkpoint_every": str(every)}
        series = {"seconds": [(at, when, step_s) for at, when in points], "tokens": [(1, 0.0, float(tokens))]}
        return Recorded(name, name, clock + 2.0, settings, series)

    def phase(self, prompts: int, group: int, steps: int, name: str = "rlvr-1") -> Recorded:
        rng = np.random.default_rng(3)
        answers = prompts * group
        rows: dict[str, list[float]] = {}
        for _ in range(steps):
            mean, longest = rng.uniform(30, 60), rng.uniform(90, 120)
            row = {
                **{"rollout/length_mean": mean, "rollout/length_max": longest, "rollout/tokens": mean * answers},
                **{"groups/trained": float(prompts // 2), "time/exchange_s": 0.1, "time/orchestration_s": 0.0},
                **{"time/reward_s": 0.0, "time/update_s": self.LEARN + self.TRAINED * mean * answers / 2},
                **{"time/rollout_s": self.LONGEST * longest + self.DECODED * mean * answers},
                "time/old_logprobs_s": 0.0,
            }
            row["time/step_s"] = row["time/rollout_s"] + row["time/update_s"] + 0.1
            for metric, value in row.items():
                rows.setdefault(metric, []).append(value)
        settings = {"rollout.prompts_per_step": str(prompts), "rollout.group_size": str(group)}
        settings |= {"rollout.max_new_tokens": "128"}
        series = {metric: [(at, 0.0, value) for at, value in enumerate(values)] for metric, values in rows.items()}
        return Recorded(name, "rlvr", sum(rows["time/step_s"]) + 3.0, settings, series)


def test_rates_are_those_of_the_machine_and_foretell_another_setting() -> None:
    machine = Machine()
    run = [machine.training("base", 600, 1000, 100), machine.training("sft", 200, 2000, 50)]
    run += [machine.phase(16, 8, 40), machine.phase(24, 8, 40, "rlvr-2")]
    rates = fit("a run", run, sum(stage.wall_s for stage in run) + 3.0, 2, 2, 128)
    assert rates.stages["base"].step == pytest.approx((machine.STEP, machine.TOKEN), rel=1e-6)
    assert rates.stages["base"].checkpoint_s == pytest.approx(0.4)
    assert rates.stages["sft"].fixed_s == pytest.approx(2.0 + 5.0)
    assert rates.decoding == pytest.approx((machine.LONGEST, 2 * machine.DECODED), rel=1e-6)
    assert rates.stages["rlvr-1"].step == pytest.approx((machine.LEARN, machine.TRAINED), rel=1e-6)
    assert rates.between_s == pytest.approx(0.75)
    assert read_rates(asdict(rates)) == rates

    other = recipe(
        *("nano", "base.steps=900", "base.tokens_per_step=1500", "base.checkpoint_every=300", "rlvr.0.steps=7"),
        *("rlvr.0.rollout.prompts_per_step=24", "rlvr.0.rollout.group_size=4"),
    )
    base, rlvr = stages_here(other, [("base", "base"), ("rlvr-1", "rlvr")], rates)
    assert base.sum_s == pytest.approx(machine.training("base", 900, 1500, 300).wall_s + 0.75, rel=0.001)
    assert rlvr.sum_s == pytest.approx(machine.phase(24, 4, 7).wall_s + 0.75, rel=0.1)


def test_phases_alike_tell_a_decoding_step_s_scale_and_the_microbenchmark_its_shape() -> None:
    one = Machine().phase(16, 8, 40)
    rates = fit("a run", [one], one.wall_s, 2, 2, 128)
    assert rates.decoding[1] / rates.decoding[0] == pytest.approx(STEP_SHAPE[1] / STEP_SHAPE[0])
    (rlvr,) = stages_here(
        recipe("nano", "rlvr.0.steps=40", "rlvr.0.rollout.prompts_per_step=16"), [("rlvr-1", "rlvr")], rates
    )
    assert rlvr.sum_s == pytest.approx(one.wall_s, rel=0.02)


def test_what_was_not_measured_is_not_foretold() -> None:
    rates = fit("a run", [Machine().training("base", 60, 1000, 100)], 20.0, 2, 2, 128)
    with pytest.raises(BadInput, match="rlvr-1"):
        stages_here(recipe("nano"), [("rlvr-1", "rlvr")], rates)
    rates = fit("a run", [Machine().training("sft", 60, 1000, 100)], 20.0, 2, 2, 128)
    epochs = recipe("nano", "sft.steps=null", "sft.epochs=2")
    with pytest.raises(BadInput, match=r"sft\.steps"):
        stages_here(epochs, [("sft", "sft")], rates)
    with pytest.raises(BadInput, match="computed nothing"):
        fit("a run", [], 1.0, 2, 2, 128)
    with pytest.raises(BadInput, match="save-rates"):
        read_rates({"stages": {"base": {"kind": "base"}}})


def test_a_fit_has_no_negative_part() -> None:
    units = np.array([1.0, 2.0, 3.0])
    assert fitted(np.ones(3), units, 2 * units) == pytest.approx((0.0, 2.0))
    assert min(fitted(np.ones(3), units, 2 * units - 1)) >= 0


def test_rollouts_of_a_synchronous_step_are_one_of_a_carried_one_several() -> None:
    cluster = Cluster(4, 32, lambda batch: 0.01, 0.0, 0, 0.0, 0.0)
    nano, mini = recipe("nano").rlvr[0].rollout, recipe("ring-mini-2.0").rlvr[0].rollout
    assert len(rollout_steps(nano, cluster, 40, 100)) == 1
    small = mini.model_copy(update={"prompts_per_step": 16, "token_budget": 16 * 8 * 20, "pool": 128})
    assert len(rollout_steps(small, cluster, 40, 100)) > 1
