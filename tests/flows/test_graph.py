"""The DAG of a recipe: order, wiring, type checks, selection; and the contracts checked before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.failures import BadInput
from components.recipe.load import load_recipe
from flows import graph as graphs
from flows.contracts import check_contracts
from flows.graph import build, mermaid
from flows.request import RECIPES, load_graph
from tasks.stage import STAGES, Stage


@pytest.fixture(scope="module")
def graph() -> graphs.Graph:
    return build(load_recipe("nano", (), RECIPES))


def test_nodes_stand_in_an_order_in_which_they_can_run(graph) -> None:
    seen: set[str] = set()
    for node in graph.nodes.values():
        assert set(node.inputs.values()) <= seen, node.name
        seen.add(node.name)
    assert list(graph.nodes)[:6] == ["corpus", "decontaminate", "base", "evaluate-base", "sft", "evaluate-sft"]


def test_phases_follow_each_other_and_everything_is_judged(graph) -> None:
    assert graph.nodes["rlvr-1"].inputs["model"] == "sft"
    assert graph.nodes["rlvr-2"].inputs["model"] == "rlvr-1"
    assert graph.nodes["rlhf"].inputs == {"model": "rlvr-2", "reward": "reward-model", "data": "decontaminate"}
    models = {name for name, node in graph.nodes.items() if node.stage.produces == "checkpoint"}
    assert {node.inputs["model"] for node in graph.nodes.values() if node.stage.type == "evaluate"} == models
    assert graph.ancestors("release") == set(graph.nodes) - {"release"}


def test_evaluations_draw_alike_and_trainings_apart(graph) -> None:
    seeds = {name: node.seed for name, node in graph.nodes.items()}
    assert len({seed for name, seed in seeds.items() if name.startswith("evaluate")}) == 1
    trainings = [seed for name, seed in seeds.items() if not name.startswith("evaluate")]
    assert len(set(trainings)) == len(trainings)
    assert build(load_recipe("nano", ["seed=1"], RECIPES)).nodes["sft"].seed != seeds["sft"]


def test_execution_settings_change_no_identity() -> None:
    one, other = (
        build(load_recipe("nano", [f"execution.learners={n}", f"description=number {n}"], RECIPES)).nodes
        for n in (1, 2)
    )
    assert one["corpus"].identity({}) == other["corpus"].identity({})


def test_input_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict(STAGES) | {"sft": Stage("sft", 1, {"model": "reward-model", "data": "clean-corpus"}, "checkpoint")}
    monkeypatch.setattr(graphs, "STAGES", wrong)
    with pytest.raises(BadInput, match="sft: input 'model' must be a reward-model, but base makes a checkpoint"):
        build(load_recipe("nano", (), RECIPES))


def test_selection(graph) -> None:
    assert graph.selection("rlhf", ()) == {"rlhf", "evaluate-rlhf", "release"}
    assert graph.selection(None, ["evaluate"]) == {name for name in graph.nodes if name.startswith("evaluate")}
    with pytest.raises(BadInput, match=r"--from: no stage of nano is called 'stf'\. Did you mean 'sft'"):
        graph.selection("stf", ())


def test_a_selection_stands_between_sft_and_all_that_follows_and_changes_nothing_else(graph) -> None:
    chosen = build(load_recipe("nano", ["select={max_new_tokens: 64}"], RECIPES))
    assert list(chosen.nodes)[5:8] == ["evaluate-sft", "select", "evaluate-select"]
    assert [chosen.nodes[name].inputs["model"] for name in ("rlvr-1", "reward-model")] == ["select", "select"]
    assert chosen.nodes["sft"].identity({}) == graph.nodes["sft"].identity({})
    assert "select" not in graph.nodes


def test_picture_has_every_node_and_edge(graph) -> None:
    text = mermaid(graph)
    assert text.count("-->") == sum(len(set(node.inputs.values())) for node in graph.nodes.values())


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.max_position=64", "do not fit the model's context of 64"),
        ("evaluate.max_new_tokens=100000", "evaluate.max_new_tokens"),
        ("sft.entropy_low=0.9", "sft.entropy_low"),
        ("select={max_new_tokens: 100000}", "select.max_new_tokens"),
        ("rlvr.1.name=math-logic", "rlvr.1.name"),
        ("execution.expert_parallel=3", "execution.expert_parallel"),
        ("execution.tensor_parallel=4", "2 execution.learners cannot be divided"),
        ("sft.mtp_loss_weight=0.1", "sft.mtp_loss_weight: nano has no layer"),
        ("base.mtp_loss_weight=0.1", "base.mtp_loss_weight: nano has no layer"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(override: str, complaint: str) -> None:
    overrides = [override] if override.startswith("rlvr") is False else ["rlvr.0.name=math-logic", override]
    with pytest.raises(BadInput, match=complaint):
        check_contracts(load_recipe("nano", overrides, RECIPES))


def test_yarn_makes_room_for_longer_answers() -> None:
    longer = ["evaluate.max_new_tokens=700"]
    with pytest.raises(BadInput, match=r"evaluate\.max_new_tokens"):
        check_contracts(load_recipe("nano", longer, RECIPES))
    check_contracts(load_recipe("nano", [*longer, "evaluate.yarn_factor=2.0"], RECIPES))


def test_async_rollouts_are_refused_where_only_one_side_works_at_a_time() -> None:
    overrides = ["rlvr.0.rollout.mode=async", "execution.placement=colocated"]
    with pytest.raises(BadInput, match=r"rlvr\.0\.rollout\.mode: async decodes while the learner updates"):
        check_contracts(load_recipe("nano", overrides, RECIPES))


class TestImportedBase:
    """The small files of a Hugging Face directory against the recipe, before anything runs."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        from components.model.hf_config import config_json
        from components.model.spec import spec_for
        from components.model.tokenizer import load_tokenizer

        recipe, tokenizer = load_recipe("nano", (), RECIPES), load_tokenizer("nano")
        tokenizer.save_pretrained(tmp_path)
        config = config_json(spec_for(recipe.model), tokenizer, "float32")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    def check(self, directory: Path, *overrides: str) -> None:
        base = f"base={{kind: import, uri: '{directory}'}}"
        check_contracts(load_recipe("nano", [base, *overrides], RECIPES))

    def test_matching_model_is_accepted(self, directory: Path) -> None:
        self.check(directory)

    def test_missing_file_and_missing_directory_are_named(self, directory: Path) -> None:
        (directory / "tokenizer.json").unlink()
        with pytest.raises(BadInput, match=r"base\.uri: .* has no tokenizer\.json"):
            self.check(directory)
        with pytest.raises(BadInput, match=r"has no config\.json"):
            self.check(directory / "nowhere")

    def test_other_architecture_names_field_and_both_values(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
        with pytest.raises(BadInput, match="num_hidden_layers 7 "):
            self.check(directory)

    def test_its_mtp_layer_is_kept_and_trained_unless_it_is_told_otherwise(self, directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": 1}))
        base = f"base={{kind: import, uri: '{directory}'}}"
        graph, loaded = load_graph("nano", [base], servers=False)
        assert (loaded.recipe.model.mtp_layers, loaded.recipe.sft.mtp_loss_weight) == (1, 0.1)
        assert loaded.origins["sft.mtp_loss_weight"] == "default: the model has an MTP layer"
        without, loaded = load_graph("nano", [base, "model.mtp_layers=0"], servers=False)
        assert loaded.recipe.sft.mtp_loss_weight is None
        assert graph.nodes["sft"].identity({}) != without.nodes["sft"].identity({})
        with pytest.raises(BadInput, match="the layer that predicts the token after the next"):
            load_graph("nano", [base, "execution.pipeline_parallel=2"], servers=False)

    def test_other_tokenizer_is_refused(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        path.write_text(path.read_text().replace("<extra_0>", "<other_0>"))
        with pytest.raises(BadInput, match="tokenizer has sha256"):
            self.check(directory)

    def test_other_chat_template_is_refused(self, directory: Path) -> None:
        from components.model.tokenizer import build_nano_tokenizer

        tokenizer = build_nano_tokenizer()
        tokenizer.chat_template = "{{ messages }}"
        tokenizer.save_pretrained(directory)
        with pytest.raises(BadInput, match="chat_template_sha256"):
            self.check(directory)
