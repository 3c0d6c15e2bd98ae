"""prefect.yaml: valid for Prefect's own model, free of machine paths, and accepted by a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from components.failures import BadInput
from flows import prefect_api
from flows.compare_request import CompareRequest
from flows.forms import stage_names
from flows.request import (
    RECIPES,
    EvaluateRequest,
    HousekeepingRequest,
    RefreshRequest,
    RunRequest,
    StageRequest,
)
from flows.standard_request import StandardRequest

ROOT = Path(__file__).parents[2]
PREFECT_YAML = ROOT / "prefect.yaml"
REQUESTS = {
    "recipe": RunRequest,
    "stage": StageRequest,
    "evaluate": EvaluateRequest,
    "evaluate-standard": StandardRequest,
    "compare": CompareRequest,
    "refresh": RefreshRequest,
    "housekeeping": HousekeepingRequest,
}
HARDWARE = REQUESTS.keys() - {"housekeeping"}


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load(PREFECT_YAML.read_text())


def test_prefects_own_model_accepts_the_file(config: dict) -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    model = PrefectYamlModel.model_validate(config)
    assert model.pull == [{"flows.installed.installed": {}}], "empty, Prefect writes this machine's directory"
    assert {deployment.name for deployment in model.deployments} == set(REQUESTS)
    for deployment in model.deployments:
        assert deployment.work_pool.name == "ringflow"
        assert deployment.concurrency_limit.limit == 1
        expected = "ENQUEUE" if deployment.name in HARDWARE else "CANCEL_NEW"
        assert deployment.concurrency_limit.collision_strategy == expected


def test_prefects_own_json_schema_accepts_the_file(config: dict) -> None:
    """The schema that Prefect publishes for editors is made from this model."""
    import jsonschema
    from prefect.cli.deploy._models import PrefectYamlModel

    schema = PrefectYamlModel.model_json_schema(by_alias=True)
    jsonschema.Draft202012Validator.check_schema(schema)
    plain = {key: value for key, value in config.items() if key != "definitions"}
    jsonschema.validate(plain, schema)
    wrong = {**plain, "deployments": [{**plain["deployments"][0], "concurrency_limit": {"limit": "one"}}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_clocks_are_on_or_off_by_choice(config: dict) -> None:
    clocks = {d["name"]: [(s["cron"], s["active"]) for s in d.get("schedules", [])] for d in config["deployments"]}
    assert clocks == {
        "recipe": [],
        "stage": [],
        "evaluate": [("0 3 * * *", False)],
        "evaluate-standard": [],
        "compare": [("30 3 * * *", False)],
        "refresh": [],
        "housekeeping": [("30 4 * * *", True)],
    }


def test_every_key_is_one_that_prefect_reads(config: dict) -> None:
    """Prefect ignores keys it does not know, so a misspelt one would be lost in silence."""
    from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel, WorkPoolConfig

    def known(model: type) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    assert config.keys() - {"definitions"} <= known(PrefectYamlModel)
    for deployment in config["deployments"]:
        assert deployment.keys() <= known(DeploymentConfig)
        assert deployment["work_pool"].keys() <= known(WorkPoolConfig)
        assert deployment["concurrency_limit"].keys() <= known(ConcurrencyLimitSpec)


def test_entrypoints_are_flows_and_default_parameters_fit(config: dict) -> None:
    from prefect import Flow

    for deployment in config["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)
        REQUESTS[deployment["name"]].model_validate(deployment["parameters"]["request"])


def test_no_machine_path_in_the_file() -> None:
    text = PREFECT_YAML.read_text()
    assert str(ROOT) not in text
    assert "/home" not in text


def form(flow) -> dict[str, dict]:
    """The fields of a form as Prefect gets them, in the order shown."""
    from prefect.utilities.callables import parameter_schema

    (model,) = (d for name, d in parameter_schema(flow).model_dump()["definitions"].items() if name.endswith("Request"))
    return dict(sorted(model["properties"].items(), key=lambda item: item[1]["position"]))


def test_form_is_shallow_and_offers_recipes_and_stages() -> None:
    from flows.recipe_flow import ring

    fields = form(ring)
    order = ["recipe", "version", "model_name", "start_at", "only", "force", "overrides", "seed", "recipe_file"]
    assert list(fields) == [*order, "repeat_of"]
    assert fields["recipe"]["enum"] == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert fields["start_at"]["enum"] == ["", *stage_names()]
    assert fields["only"]["items"]["enum"][: len(stage_names())] == list(stage_names())
    assert [name for name, field in fields.items() if "anyOf" in field] == []


def test_every_field_of_every_form_says_what_it_is(config: dict) -> None:
    for deployment in config["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        fields = form(getattr(import_module(module), name))
        assert all(field["title"] and field["description"] for field in fields.values()), deployment["name"]
        assert len({field["position"] for field in fields.values()}) == len(fields), deployment["name"]


def test_a_recipe_that_is_no_longer_the_version_asked_for_is_refused() -> None:
    from components.artifacts.provenance import recipe_version
    from components.failures import BadInput
    from components.recipe.load import load_recipe

    version = recipe_version(load_recipe("smoke", ["sft.steps=7"], RECIPES))
    graph, loaded = RunRequest(recipe="smoke", version=version, overrides=["sft.steps=7"]).load()
    assert loaded.recipe.sft.steps == 7
    assert "release" in graph.nodes
    with pytest.raises(BadInput, match=f"not {version}"):
        RunRequest(recipe="smoke", version=version).load()


def test_model_name_is_an_override_and_a_stage_alone_has_nothing_after_it() -> None:
    _, loaded = RunRequest(recipe="smoke", model_name="mine").load()
    assert loaded.recipe.release.model_name == "mine"
    request = StageRequest(recipe="smoke", stage="sft")
    graph, _ = request.load()
    assert list(graph.nodes) == ["corpus", "decontaminate", "base", "sft"]
    assert request.choice(graph) == (frozenset({"sft"}), frozenset())
    everything = StageRequest(recipe="smoke", stage="sft", with_inputs=True, force=True)
    assert everything.choice(graph) == (frozenset(graph.nodes), frozenset({"sft"}))
    assert list(RefreshRequest(recipe="smoke").load()[0].nodes) == ["corpus", "decontaminate"]


def test_forcing_a_stage_that_is_left_out_is_refused() -> None:
    with pytest.raises(BadInput, match="sft cannot run again"):
        RunRequest(recipe="smoke", only=["corpus"], force=["sft"]).choice(RunRequest(recipe="smoke").load()[0])


@pytest.mark.server
def test_a_real_server_takes_every_deployment(stack) -> None:
    prefect = Path(sys.executable).parent / "prefect"
    subprocess.run([prefect, "--no-prompt", "deploy", "--all"], cwd=ROOT, check=True, timeout=300, capture_output=True)
    found = {found["name"]: found for found in prefect_api.ask("POST", "/deployments/filter", {"limit": 50})}
    assert REQUESTS.keys() <= found.keys()
    assert found["recipe"]["pull_steps"] == [{"flows.installed.installed": {}}]
    assert str(ROOT) not in json.dumps(found["recipe"])
    assert found["recipe"]["global_concurrency_limit"]["limit"] == 1
    assert found["recipe"]["parameter_openapi_schema"]["definitions"]["RunRequest"]["properties"]["recipe"]["enum"]


@pytest.mark.server
def test_deploy_gives_each_deployment_the_pool_and_the_variables_of_its_recipe(stack, tmp_path: Path) -> None:
    from flows.cli.deploy import _with_variables

    recipe = tmp_path / "own.yaml"
    section = "execution: {cluster: {env: {OMP_NUM_THREADS: '4'}, pod: {cpus: 2, memory_gib: 8}}}"
    lines = (RECIPES / "smoke.yaml").read_text().splitlines()
    assert not [line for line in lines if line.startswith("execution:")]
    recipe.write_text("\n".join([*lines, section]))
    template = json.loads((ROOT / "infra/kubernetes/pool/base-job-template.json").read_text())
    prefect_api.ask("POST", "/work_pools/", {"name": "pods", "type": "kubernetes", "base_job_template": template})
    flow = prefect_api.ask("POST", "/flows/", {"name": "ring"})["id"]
    body = {"name": "own", "flow_id": flow, "entrypoint": "flows.recipe_flow.ring", "work_pool_name": "ringflow"}
    body |= {"parameters": {"request": {"recipe_file": str(recipe)}}, "enforce_parameter_schema": False}

    def registered(pool: str) -> dict:
        made = prefect_api.ask("POST", "/deployments/", body)
        _with_variables(made, pool)
        found = prefect_api.ask("GET", f"/deployments/{made['id']}")
        return {"pool": found["work_pool_name"], **found["job_variables"]}

    env = {"OMP_NUM_THREADS": "4"}
    assert registered("") == {"pool": "ringflow", "env": env}
    # Prefect checks them against the pool's template.
    assert registered("pods") == {"pool": "pods", "env": env, "cpu": "2", "memory": "8192Mi"}
    with pytest.raises(BadInput, match="nowhere: no such work pool"):
        registered("nowhere")
