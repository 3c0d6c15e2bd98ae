"""The planner: what it promises fits, it says what does not, and volumes and work are those of the formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.failures import BadInput
from components.model.accelerators import parse_cluster
from components.model.cost import decoding, forward_flops, step_time
from components.model.layout import UNDIVIDED, Layout
from components.model.memory import (
    METHODS,
    EngineLayout,
    Method,
    engine_memory,
    extended,
    kv_bytes,
    learner_memory,
    rank_parameters,
    today,
)
from components.model.planner import plan, smallest
from components.model.spec import PRESETS
from components.model.workload import loads_of
from components.recipe.execution import ExecutionConfig
from components.recipe.load import load_recipe
from components.recipe.recipe import Recipe

RECIPES = Path(__file__).parents[3] / "flows" / "recipes"
MINI, H100 = PRESETS["ring-mini-2.0"], parse_cluster("64xH100")
FLOAT32 = today(ExecutionConfig())


def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, overrides, RECIPES)


def test_loads_are_the_recipes_steps_and_tokens() -> None:
    loads = {load.name: load for load in loads_of(recipe("ring-1t"), mean_length=0.5)}
    assert list(loads) == ["sft", "rlvr-1", "reward-model", "rlhf"]
    assert (loads["sft"].tokens, loads["sft"].longest) == (64 * 65_536, 65_536)
    assert (loads["rlvr-1"].generated, loads["rlvr-1"].in_flight) == (31_457_280, 3840)
    assert loads["rlhf"].tokens == 80 * 8 * 30_720 / 2
    assert [load.name for load in loads_of(recipe("nano"))][:3] == ["base", "sft", "rlvr-1"]


def test_a_recipe_without_rl_has_a_plan_whose_engines_evaluate() -> None:
    tuned = recipe("ring-mini-2.0").model_copy(update={"rlvr": (), "rlhf": None, "reward_model": None})
    made = plan(tuned, H100, today(tuned.execution))
    assert made.fits
    assert [time.load.name for time in made.times] == ["sft"]
    assert made.times[0].rollout == 0
    with pytest.raises(BadInput, match=r"sft\.steps"):
        loads_of(tuned.model_copy(update={"sft": tuned.sft.model_copy(update={"steps": None})}))


def test_todays_method_is_the_recipes_execution() -> None:
    assert recipe("nano").execution.learner_dtype == "float32"
    assert today(recipe("nano").execution) == Method("today")
    method = today(recipe("ring-mini-2.0").execution)
    assert method == Method("today", "bfloat16", True, True, 4096, 65_536, 0.8)
    more = extended(recipe("ring-mini-2.0").execution)
    assert more == replace(method, name="extended", engine_pipeline=16)
    divided = plan(recipe("ring-mini-2.0"), H100, method)
    whole = plan(
        recipe("ring-mini-2.0", "execution.distributed_optimiser=false"), H100, replace(method, distributed=False)
    )
    for made in (divided, whole):
        stages = range(made.layout.pipeline)
        fullest = [learner_memory(MINI, made.layout, made.method, stage, 65_536, 8) for stage in stages]
        assert made.learner.moments in [memory.moments for memory in fullest]
    assert divided.learner.moments < whole.learner.moments
    assert divided.seconds <= whole.seconds


def test_fp8_halves_the_time_of_products_but_not_of_attention_and_head() -> None:
    bfloat16 = Method("bfloat16", "bfloat16", fused=True)
    fp8 = replace(bfloat16, dtype="fp8")
    short, long = (
        [step_time(MINI, UNDIVIDED, method, H100, 65_536, 65_536, length) for method in (bfloat16, fp8)]
        for length in (1.0, 65_536.0)
    )
    head = 3 * 2 * MINI.vocab_size * MINI.hidden_size * 65_536 / (494.7e12 * 0.65)
    layers = [time.compute - head for time in short]
    assert 0.5 < layers[1] / layers[0] < 0.52
    assert 0.85 < long[1].compute / long[0].compute < 1  # attention of 64K tokens
    with pytest.raises(BadInput, match=r"A100 has no products in fp8"):
        step_time(MINI, UNDIVIDED, fp8, parse_cluster("8xA100"), 65_536, 65_536, 2048)


def test_fp8_keeps_the_rounded_weights_of_a_micro_batch() -> None:
    bfloat16 = Method("bfloat16", "bfloat16", fused=True, head_rows=1024)
    own = rank_parameters(MINI, UNDIVIDED, 0)
    products = own.total - 2 * own.head
    for recompute, layers in ((False, 1), (True, MINI.num_hidden_layers)):
        before, after = (
            learner_memory(MINI, UNDIVIDED, replace(bfloat16, dtype=dtype, recompute=recompute), 0, 4096, 2)
            for dtype in ("bfloat16", "fp8")
        )
        assert after.working - before.working == pytest.approx(2 * products / layers)
        assert replace(after, working=0, buffers=0) == replace(before, working=0, buffers=0)


def test_a_plan_knows_kernels_and_fp8() -> None:
    settings = ("execution.kernels=transformer_engine", "execution.learner_dtype=fp8")
    tuned = recipe("ring-mini-2.0", *settings)
    method = today(tuned.execution)
    assert (method.dtype, method.fused, method.width) == ("fp8", True, 2)
    made, plain = (
        plan(tuned, H100, method),
        plan(recipe("ring-mini-2.0"), H100, today(recipe("ring-mini-2.0").execution)),
    )
    assert made.fits
    assert made.times[0].update.compute < plain.times[0].update.compute
    assert made.exchange_bytes == plain.exchange_bytes  # weights are bfloat16


def test_an_mtp_layer_is_planned_where_it_is_trained() -> None:
    sft = ("model.mtp_layers=1", "sft.mtp_loss_weight=0.1")
    made = {kind: plan(text, H100, today(text.execution)) for kind, text in (
        ("none", recipe("ring-mini-2.0")), ("rests", recipe("ring-mini-2.0", sft[0])),
        ("trains", recipe("ring-mini-2.0", *sft)),
    )}  # fmt: skip
    steps = {kind: {time.load.name: time.update.compute for time in each.times} for kind, each in made.items()}
    assert steps["rests"] == steps["none"]
    assert steps["trains"]["sft"] > 1.05 * steps["none"]["sft"]
    assert steps["trains"]["rlvr-1"] == steps["none"]["rlvr-1"]
    extra = MINI.model_copy(update={"num_nextn_predict_layers": 1}).mtp_parameters()
    assert made["rests"].checkpoint_bytes - made["none"].checkpoint_bytes == 4 * extra
    assert made["rests"].exchange_bytes == made["none"].exchange_bytes
    assert made["none"].learner.weights < made["rests"].learner.weights == made["trains"].learner.weights
    assert {each.layout.pipeline for each in (made["rests"], made["trains"])} == {1}


def test_rows_longer_than_a_micro_batch_are_one_and_pairs_stay_together() -> None:
    loads = {load.name: load for load in loads_of(recipe("ring-mini-2.0"))}
    for tokens, expected in (
        (65_536, [65_536] * 4),
        (2048, [65_536, 65_536, 32_768, 32_768]),
        (131_072, [131_072] * 4),
    ):
        assert [load.micro_batch(Method("any", micro_batch=tokens)) for load in loads.values()] == expected


def test_an_engine_beside_learners_fills_its_share_and_leaves_them_their_weights() -> None:
    made = plan(recipe("ring-mini-2.0"), H100, today(recipe("ring-mini-2.0").execution))
    assert made.placement == "colocated"
    assert made.engine.total <= 0.8 * 80e9 * 1.001
    assert made.engine.total + made.learner.weights <= made.peak <= 80e9
    assert (Method("any").engine_share(True), Method("any").engine_share(False)) == (0.4, 0.9)


def test_float32_keeps_every_attention_score_of_a_row_on_a_gpu() -> None:
    """64K tokens attend to 64K: without recompute a float32 learner of the ladder does not fit."""
    old = ("execution.learner_dtype=float32", "execution.recompute=false", "execution.logit_rows=null")
    text = recipe("ring-mini-2.0", *old)
    made = plan(text, H100, today(text.execution))
    assert not made.fits
    assert made.learner.activations > 16 * 65_536**2 * 4 / 64


@pytest.mark.parametrize("method", ["today", "extended"])
def test_a_plan_that_fits_is_a_layout_the_learner_accepts_in_the_memory_it_says(method: str) -> None:
    mini = recipe("ring-mini-2.0")
    made = plan(mini, H100, METHODS[method](mini.execution))
    made.layout.check(MINI)
    assert made.fits
    assert not made.misfits
    assert made.engines * made.engine_layout.devices <= 64
    for stage in range(made.layout.pipeline):
        need = learner_memory(MINI, made.layout, made.method, stage, 65_536, 8)
        assert need.total <= made.learner.total * 1.001 <= 80e9
    assert made.seconds == sum(time.step * time.load.steps for time in made.times)


def test_what_does_not_fit_is_named_and_the_nearest_cluster_found() -> None:
    flash, trillion = recipe("ring-flash-2.0"), recipe("ring-1t")
    method = today(flash.execution)
    small = plan(flash, parse_cluster("16xH100"), method)
    assert not small.fits
    assert "of 80 GB" in small.misfits[0]
    found = smallest(flash, parse_cluster("16xH100"), method)
    assert found.fits
    assert not plan(flash, replace(H100, devices=found.cluster.devices // 2), method).fits
    # Today an engine lies in one node: 103B parameters fit, a trillion fit on no number of nodes.
    assert smallest(trillion, parse_cluster("1024xH200"), today(trillion.execution)) is None
    assert plan(trillion, parse_cluster("1024xH200"), extended(trillion.execution)).fits


def test_work_is_two_operations_a_weight_and_grows_with_the_document() -> None:
    active = MINI.parameter_count()[1] - MINI.vocab_size * MINI.hidden_size
    assert forward_flops(MINI, 0) == 2 * active
    assert forward_flops(MINI, 1000) - 2 * active == 2 * 1000 * 16 * 128 * 20


def test_undivided_nothing_is_sent_and_every_dimension_sends_its_formula() -> None:
    def sent(layout: Layout, **options) -> dict[str, float]:
        return step_time(MINI, layout, FLOAT32, H100, 1 << 20, 65_536, 8192, **options).sent

    assert set(sent(UNDIVIDED).values()) == {0.0}
    count, expert = MINI.parameter_count()[0], 19 * 256 * 3 * 2048 * 512
    biases = 19 * 256
    assert sent(Layout(4))["gradients"] == pytest.approx(2 * 4 * (count - biases) * 3 / 4)
    divided = sent(Layout(4, expert=4))
    assert divided["gradients"] == pytest.approx(2 * 4 * (count - biases - expert) * 3 / 4)
    tokens = (1 << 20) / 4
    assert divided["expert"] == pytest.approx(tokens * 2 * 2 * 8 * 2048 * 4 * 19 * 3 / 4)
    forward = sent(Layout(4, tensor=4), train=False)
    assert forward["tensor"] == pytest.approx((4 * 20 + 2) * (1 << 20) * 2048 * 4 * 3 / 4)
    assert forward["gradients"] == 0


def test_decoding_is_bound_by_reading_weights_and_keys() -> None:
    one = EngineLayout()
    memory = engine_memory(MINI, one, 72e9, 65_536, 128)
    few = decoding(MINI, one, H100, memory.kv_cache, 16_384, 1)
    many = decoding(MINI, one, H100, memory.kv_cache, 16_384, 128)
    assert few.tokens_per_second < many.tokens_per_second < 128 * few.tokens_per_second
    assert many.sequences == int(memory.kv_cache / (kv_bytes(MINI, one) * 16_384))
    # One sequence reads the active weights (without an unused expert) and its own cache, at 60 % of 3.35 TB/s.
    routed, chosen = 19 * 256 * 3 * 2048 * 512, 8 / 256
    read = 2 * (MINI.parameter_count()[0] - routed * (1 - chosen)) + 16_384 * kv_bytes(MINI, one)
    assert few.step == pytest.approx(read / (3.35e12 * 0.6))
    assert kv_bytes(MINI, EngineLayout(tensor=8)) == kv_bytes(MINI, EngineLayout(tensor=4)), "KV heads are repeated"
