"""The optional stages: `mix` on a real clean corpus, `pass-rate` with engines that are told what to answer, and (marked
engine) with the real ones."""

import json

import pytest

from components.artifacts.local import LocalContext
from components.data.generator import generate
from components.data.jsonl import read_corpus, write_corpus
from components.data.schema import Message, RlRecord, Verifier
from components.failures import BadInput
from components.recipe.data import Expectation, GateConfig, GeneratorSource
from components.recipe.execution import ExecutionConfig
from components.recipe.load import load_recipe
from components.recipe.mix import MixConfig, PassRateConfig, SplitMix
from components.recipe.model import ModelConfig
from components.rewards.scorer import open_scorer
from components.rl.pass_rate import Codec, estimate_pass_rates
from components.rollout.types import Sample
from flows.graph import build
from tasks.stage import STAGES, StageConfig
from tasks.stages.rlvr import gate_rollouts
from tests.components.recipe.test_load import MINIMAL

NANO = ModelConfig(preset="nano")
NO_MORE = GateConfig()
RECIPE = MixConfig(sft=SplitMix(ratios={"math": 2, "code": 1, "logic|science": 1}))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    context = LocalContext(tmp_path_factory.mktemp("clean"), "decontaminate", quiet=True)
    made = generate(GeneratorSource(pretrain=3, sft=400, rl=40, preference=10, benchmark=8), 0)
    write_corpus(context.output, {"sft": made.sft, "rl": made.rl, "preference": made.preference}, {})
    return context


def mixed(root, corpus, config=RECIPE, seed=1, gates=NO_MORE):
    context = LocalContext(root, "mix", seed=seed, quiet=True)
    inputs = {"data": corpus.ref("clean-corpus")}
    return context, STAGES["mix"].function()(context, inputs, StageConfig(config, NANO, gates))


def test_mix_meets_the_ratios_and_leaves_other_splits_alone(tmp_path, corpus):
    context, result = mixed(tmp_path / "a", corpus)
    before, after = read_corpus(corpus.output), read_corpus(context.output)
    assert after["rl"] == before["rl"]
    assert after["preference"] == before["preference"]
    domains = [record.domain for record in after["sft"]]
    assert len(domains) == result.summary["sft"]
    assert domains.count("math") / len(domains) == pytest.approx(0.5, abs=0.02)
    assert domains.count("general") == 0 < result.summary["left out of sft"]
    assert domains != sorted(domains)
    assert (context.root / "attachments" / "gates" / "mix.html").is_file()
    again, _ = mixed(tmp_path / "b", corpus)
    other, _ = mixed(tmp_path / "c", corpus, seed=2)
    files = [place.output / "data" / "sft.jsonl" for place in (context, again, other)]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_a_mix_that_so_few_records_cannot_give_stops(tmp_path, corpus):
    few = MixConfig(sft=SplitMix(ratios={"math": 60, "code": 1, "science": 1}, records=7))
    with pytest.raises(BadInput, match=r"critical data gate.*mix is not the recipe's"):
        mixed(tmp_path, corpus, few)


def test_expectations_of_the_recipe_reach_the_later_suites(tmp_path, corpus):
    added = Expectation(
        suite="mix",
        name="expect_column_values_to_be_between",
        column="epochs",
        kwargs={"max_value": 0.001},
        severity="critical",
        meaning="records drawn too often",
    )
    with pytest.raises(BadInput, match="records drawn too often"):
        mixed(tmp_path / "out", corpus, gates=GateConfig(expectations=(added,)))


def test_optional_stages_stand_in_the_graph(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + "mix: {sft: {preset: ring-sft}}\npass_rate: {max_new_tokens: 8}\n")
    nodes = build(load_recipe(path)).nodes
    assert nodes["sft"].inputs["data"] == nodes["reward-model"].inputs["data"] == "mix"
    assert nodes["rlvr-1"].inputs["data"] == nodes["rlhf"].inputs["data"] == "pass-rate"
    assert nodes["pass-rate"].inputs == {"model": "sft", "data": "mix"}
    assert nodes["release"].inputs["data"] == "decontaminate"
    gates = (
        "  gates: {expectations: [{suite: mix, name: expect_table_row_count_to_be_between, kwargs: {max_value: 9}}]}\n"
    )
    path.write_text(MINIMAL.replace("base:\n", gates + "base:\n", 1) + "mix: {sft: {preset: ring-sft}}\n")
    assert [added.suite for added in build(load_recipe(path)).nodes["mix"].config.gates.expectations] == ["mix"]
    path.write_text(MINIMAL)
    assert not {"mix", "pass-rate"} & set(build(load_recipe(path)).nodes)


class Scripted:
    """Engines that solve prompt n in `n % 5` of 4 tries (0 never, 4 always)."""

    def __init__(self, fail_after=None):
        self.calls, self.fail_after = 0, fail_after

    def generate(self, requests, sampling, deadline_s):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise RuntimeError("killed")
        samples = []
        for request in requests:
            number, member = map(int, request.request_id.split("/"))
            right = member < number % 5
            samples.append(Sample(request.request_id, request.prompt, [number, right], [0.0, 0.0], "stop", 0))
        return samples


def prompts(count):
    for n in range(count):
        verifier = Verifier(kind="math", reference={"answer": str(n)})
        user = (Message(role="user", content=f"Say {n}"),)
        yield RlRecord(id=f"{n:016x}", source="s", domain="math", family="f", prompt=user, verifier=verifier)


CODEC = Codec(
    render=lambda messages: (messages[0].content, [1, 2, 3]),
    decode=lambda tokens: f"\\boxed{{{tokens[0] if tokens[1] else 'none'}}}",
    stop_token_ids=(0,),
    context_length=20,
)


def estimate(root, engines, config=None):
    execution = ExecutionConfig(engines=1, max_num_seqs=8)
    context = LocalContext(root, "pass-rate", execution=execution, quiet=True)
    with open_scorer() as scorer:
        config = config or PassRateConfig(samples=4, max_new_tokens=8)
        return context, estimate_pass_rates(context, engines, CODEC, scorer, prompts(50), 50, config)


def test_always_and_never_solved_prompts_go(tmp_path):
    context, counts = estimate(tmp_path, Scripted())
    assert (counts["kept"], counts["never solved"], counts["always solved"]) == (30, 10, 10)
    kept = [json.loads(line)["id"] for line in (context.output / "data" / "rl.jsonl").open()]
    assert kept == [record.id for n, record in enumerate(prompts(50)) if n % 5 not in (0, 4)]
    rates = [json.loads(line)["pass_rate"] for line in (context.output / "pass_rates.jsonl").open()]
    assert rates == [n % 5 / 4 for n in range(50)]
    assert counts["responses"] == 200


def test_a_killed_stage_goes_on_without_drawing_twice(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        estimate(tmp_path / "a", Scripted(fail_after=3))
    engines = Scripted()
    resumed, counts = estimate(tmp_path / "a", engines)
    whole, expected = estimate(tmp_path / "b", Scripted())
    assert counts == expected
    assert engines.calls == 7 - 3
    for name in ("data/rl.jsonl", "pass_rates.jsonl", "rollouts.jsonl"):
        assert (resumed.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_prompts_without_room_or_of_other_domains_stay_untried(tmp_path):
    engines = Scripted()
    _, counts = estimate(tmp_path / "a", engines, PassRateConfig(samples=4, max_new_tokens=18))
    assert (counts["untried"], engines.calls) == (50, 0)
    _, counts = estimate(tmp_path / "b", engines, PassRateConfig(samples=4, max_new_tokens=8, domains=("code",)))
    assert (counts["untried"], engines.calls) == (50, 0)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pass_rates_of_a_real_model_on_real_engines(tmp_path):
    from components.cluster.warm import release_all
    from components.training.group import LearnerGroup

    model = ModelConfig(preset="smoke")
    execution = ExecutionConfig(engines=1, learners=1, max_num_seqs=32, start_deadline_s=600)
    start = LocalContext(tmp_path / "model", "sft", execution=execution, quiet=True)
    learner = LearnerGroup(model, execution, seed=0, in_process=True)
    learner.initialise(1)
    learner.write_hf(start.outbox.place("model"), "nano")
    data = LocalContext(tmp_path / "data", "decontaminate", execution=execution, quiet=True)
    write_corpus(
        data.output, {"rl": generate(GeneratorSource(pretrain=1, sft=1, rl=20, preference=2, benchmark=8), 0).rl}, {}
    )
    inputs = {"model": start.ref("checkpoint"), "data": data.ref("clean-corpus")}
    context = LocalContext(tmp_path / "rate", "pass-rate", 3, execution, quiet=True)
    config = PassRateConfig(samples=2, max_new_tokens=8, domains=("math", "logic"))
    try:
        # An untrained model solves nothing: every tried prompt is dropped, and that is told.
        with pytest.raises(BadInput, match="no RL prompt is solved sometimes"):
            STAGES["pass-rate"].function()(context, inputs, StageConfig(config, model))
    finally:
        release_all()
    rows = [json.loads(line) for line in (context.output / "pass_rates.jsonl").open()]
    assert len(rows) == 20
    tried = [row for row in rows if row["outcome"] != "untried"]
    assert {row["domain"] for row in tried} == {"math", "logic"}
    assert all(0 <= row["pass_rate"] <= 1 for row in tried)
    assert (context.output / "gates" / "docs" / "index.html").is_file()


def test_rollouts_of_an_rl_stage_are_gated_and_shown(tmp_path):
    context = LocalContext(tmp_path, "rlvr-1", quiet=True)
    (context.output / "rollouts").mkdir()
    reward = {"value": 1.0, "verdict": "correct", "evidence": {}}
    row = {"step": 0, "prompt_id": "p", "response": "so", "finish": "stop", "tokens": 2, "reward": reward}
    (context.output / "rollouts" / "step-000000.jsonl").write_text((json.dumps(row) + "\n") * 4)
    (context.output / "rollouts" / "alarms.jsonl").write_text('{"step": 0, "alarm": "odd"}\n')
    metrics = context.output / "metrics.jsonl"
    metrics.write_text('{"step": 0, "reward/error_fraction": 0.0}\n')
    assert gate_rollouts(context, NO_MORE) == 0
    metrics.write_text('{"step": 0, "reward/error_fraction": 0.2}\n')
    assert gate_rollouts(context, NO_MORE) == 1  # shown, not raised: the loop has masked them
    assert (context.root / "attachments" / "gates" / "rollouts.html").is_file()
