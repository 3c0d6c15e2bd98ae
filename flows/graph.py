"""The DAG of a recipe: which stages run, on what, with which part of the recipe. Built and type-checked without I/O.

    corpus -> decontaminate -> base -> sft -> rlvr-1 -> rlvr-2 ... -> rlhf -> release
                                        \\-> reward-model --------------/
    where reward-model and rlhf, or any RL, may be left out;
    with the optional stages `mix` after decontaminate (all training reads its splits), `select` after sft (another of
    its candidates) and `pass-rate` after that (RLVR and RLHF read its prompts), and evaluate-X after every checkpoint
    X, all of them inputs of the release.

The order of the nodes is an order in which they can run one after another: an evaluation comes right after its model,
so that a run that stops early has still said how good the last model was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from components.artifacts.ref import ArtifactKind, ArtifactRef
from components.evaluation.benchmark import find, is_standard
from components.failures import BadInput
from components.recipe.base import StrictModel
from components.recipe.evaluation import BenchmarksConfig, EvaluationConfig, ServedEvaluationConfig, ServedModel
from components.recipe.recipe import Recipe
from tasks.node import Node
from tasks.stage import STAGES, Stage, StageConfig

BASE_RELEASE = "base-release"


@dataclass(frozen=True)
class Graph:
    """nodes: by name, in an order in which they can run. given: artifacts from outside, by the name that nodes use."""

    recipe: Recipe
    nodes: Mapping[str, Node]
    given: Mapping[str, ArtifactRef] = field(default_factory=dict)

    def ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.nodes[name].inputs.values())
        while waiting:
            parent = waiting.pop()
            if parent not in found and parent not in self.given:
                found.add(parent)
                waiting.extend(self.nodes[parent].inputs.values())
        return found

    def part(self, names: Iterable[str]) -> Graph:
        """Only these nodes and what they need."""
        wanted = set(names)
        needed = wanted.union(*(self.ancestors(name) for name in wanted))
        return replace(self, nodes={name: node for name, node in self.nodes.items() if name in needed})

    def evaluations(self, models: Mapping[str, str]) -> Graph:
        """The corpus and evaluations of models from outside. models: node -> the name its model is given by."""
        known = self.nodes["evaluate-sft"]
        nodes = {"corpus": self.nodes["corpus"]}
        for name, model in models.items():
            nodes[name] = replace(known, name=name, inputs={"model": model, "corpus": "corpus"})
        return Graph(self.recipe, nodes)

    def standard_evaluations(self, benchmarks: BenchmarksConfig, models: Mapping[str, str | ServedModel]) -> Graph:
        """Standard benchmarks and evaluations on them.

        models: node -> the name a checkpoint from outside is given by, or a model that is asked over HTTP.
        Raises BadInput for an unknown benchmark.
        """
        for wanted in benchmarks.benchmarks:
            find(wanted.name)
        evaluate = _only(self.recipe, {wanted.name for wanted in benchmarks.benchmarks})
        known, corpus = self.nodes["evaluate-sft"], {"corpus": "benchmarks"}
        first = Node("benchmarks", STAGES["benchmarks"], {}, StageConfig(benchmarks, None), known.seed)
        nodes = {"benchmarks": first}
        for name, model in models.items():
            if isinstance(model, ServedModel):
                section = ServedEvaluationConfig(served=model, evaluation=evaluate)
                stage = STAGES["evaluate-served"]
                nodes[name] = Node(name, stage, corpus, StageConfig(section, None), known.seed, key="evaluate")
            else:
                config = replace(known.config, section=evaluate)
                nodes[name] = replace(known, name=name, inputs={"model": model, **corpus}, config=config)
        return Graph(self.recipe, nodes)

    def with_inputs(self, more: Mapping[str, Mapping[str, str]]) -> Graph:
        """Further inputs of nodes. more: node -> {input name: where it comes from}."""
        nodes = {name: replace(node, inputs={**node.inputs, **more.get(name, {})}) for name, node in self.nodes.items()}
        return replace(self, nodes=nodes)

    def from_release(self, release: ArtifactRef) -> Graph:
        """The DAG whose base is a model of the store: an input like any other, so that lineage goes through it."""
        return replace(self.with_inputs({"base": {"release": BASE_RELEASE}}), given={BASE_RELEASE: release})

    def require(self, names: Iterable[str], option: str) -> list[str]:
        """The names, each one a node; a node type (`evaluate`, `rlvr`) stands for all nodes of that type.

        Raises BadInput with the known names.
        """
        chosen: list[str] = []
        for name in names:
            matches = [node.name for node in self.nodes.values() if name in (node.name, node.stage.type)]
            if not matches:
                close = get_close_matches(name, self.nodes, n=1)
                raise BadInput(
                    f"no stage of {self.recipe.name} is called {name!r}",
                    where=option,
                    remedy=(f"Did you mean {close[0]!r}? " if close else "") + f"Stages: {', '.join(self.nodes)}",
                )
            chosen += matches
        return chosen

    def selection(self, start_at: str | None, only: Iterable[str]) -> set[str]:
        """Nodes that may run; every other node that they need must be finished already.

        start_at: this node and every later one. only: these nodes.
        """
        order = list(self.nodes)
        allowed = set(order)
        if start_at:
            first = min(order.index(name) for name in self.require([start_at], "--from"))
            allowed = set(order[first:])
        only = list(only)
        if only:
            allowed &= set(self.require(only, "--only"))
        return allowed


def build(recipe: Recipe) -> Graph:
    """The DAG of a recipe.

    Raises:
        BadInput: an input of a node is missing, unknown, or of another kind than its stage consumes.
    """
    nodes: dict[str, Node] = {}

    def add(name: str, type: str, section: StrictModel, inputs: Mapping[str, str], order: str = "", **where) -> str:
        stage = STAGES[type]
        config = StageConfig(section, recipe.model if stage.uses_model else None, recipe.corpus.gates)
        key = where.pop("key", type.replace("-", "_"))
        node = Node(name, stage, dict(inputs), config, _seed(recipe.seed, order or type), key, **where)
        _check(node, nodes)
        nodes[name] = node
        return name

    def evaluate(model: str) -> None:
        section = recipe.evaluate.for_base() if model == "base" else recipe.evaluate
        instead = {"samples": "base_samples"} if section is not recipe.evaluate else {}
        inputs = {"model": model, "corpus": "corpus", "contamination": "decontaminate"}
        add(f"evaluate-{model}", "evaluate", section, inputs, instead=instead)

    add("corpus", "corpus", recipe.corpus, {})
    add("decontaminate", "decontaminate", recipe.decontaminate, {"corpus": "corpus"})
    data = {"data": "decontaminate"}
    if recipe.mix is not None:
        data = {"data": add("mix", "mix", recipe.mix, data)}
    last = add("base", "base", recipe.base, data)
    evaluate(last)
    last = add("sft", "sft", recipe.sft, {"model": last} | data)
    evaluate(last)
    if recipe.select is not None:
        last = add("select", "select", recipe.select, {"model": last} | data)
        evaluate(last)
    tuned, prompts = last, data
    if recipe.pass_rate is not None:
        prompts = {"data": add("pass-rate", "pass-rate", recipe.pass_rate, {"model": last} | data)}
    for number, phase in enumerate(recipe.rlvr, start=1):
        name = f"rlvr-{number}"
        last = add(name, "rlvr", phase, {"model": last} | prompts, name, key=f"rlvr.{number - 1}")
        evaluate(last)
    if recipe.rlhf is not None and recipe.reward_model is not None:
        reward = add("reward-model", "reward-model", recipe.reward_model, {"model": tuned} | data)
        last = add("rlhf", "rlhf", recipe.rlhf, {"model": last, "reward": reward} | prompts)
        evaluate(last)
    scores = {name: name for name, node in nodes.items() if node.stage.type == "evaluate"}
    cleaned = {"corpus": "corpus", "data": "decontaminate"}  # the card tells what was removed from what
    add("release", "release", recipe.release, {"model": last} | cleaned | scores)
    return Graph(recipe, nodes)


def _only(recipe: Recipe, names: Set[str]) -> EvaluationConfig:
    """Without the settings of benchmarks that are not asked. Raises BadInput for a name that is none."""
    config, own = recipe.evaluate, {benchmark.name for benchmark in recipe.corpus.benchmarks}
    for one in config.settings:
        if not is_standard(one.benchmark) and one.benchmark not in own:
            raise BadInput(f"no benchmark {one.benchmark!r} is asked", where="evaluate.settings")
    return config.model_copy(update={"settings": tuple(one for one in config.settings if one.benchmark in names)})


def _seed(seed: int, part: str) -> int:
    """The recipe's seed folded with the stage: stages draw apart, all evaluations draw alike (paired comparison)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:4], "big") >> 1


def _check(node: Node, nodes: Mapping[str, Node]) -> None:
    """An input name has a declared kind, its producer exists and makes that kind, and nothing declared is absent."""
    for name, source in node.inputs.items():
        kind = input_kind(node.stage, name)
        if kind is None:
            raise BadInput(f"{node.stage.type} consumes no input called {name!r}", where=node.name)
        if source not in nodes:
            raise BadInput(f"input {name!r} comes from {source!r}, which is not an earlier stage", where=node.name)
        made = nodes[source].stage.produces
        if made != kind:
            raise BadInput(f"input {name!r} must be a {kind}, but {source} makes a {made}", where=node.name)
    for name in node.stage.consumes:
        if not name.endswith("*") and name not in node.inputs:
            raise BadInput(f"input {name!r} is not connected", where=node.name)


def input_kind(stage: Stage, name: str) -> ArtifactKind | None:
    for pattern, kind in stage.consumes.items():
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return kind
    return None


def mermaid(graph: Graph) -> str:
    """The DAG as a Mermaid flowchart, top to bottom."""
    shapes = {"corpus": "[({})]", "clean-corpus": "[({})]", "evaluation": "{{{{{}}}}}", "release": "([{}])"}
    lines = ["flowchart TD"]
    for node in graph.nodes.values():
        lines.append(f"    {node.name}{shapes.get(node.stage.produces, '[{}]').format(node.name)}")
    for node in graph.nodes.values():
        lines += [f"    {source} --> {node.name}" for source in dict.fromkeys(node.inputs.values())]
    return "\n".join(lines)
