"""prefect.yaml: valid for Prefect's own model, free of machine paths, and accepted by a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from flows import prefect_api
from flows.request import RECIPES, EvaluateRequest, RunRequest

ROOT = Path(__file__).parents[2]
PREFECT_YAML = ROOT / "prefect.yaml"
REQUESTS = {"recipe": RunRequest, "evaluate": EvaluateRequest}


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
        assert deployment.concurrency_limit.collision_strategy == "ENQUEUE"


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


def test_form_is_shallow_and_offers_every_recipe() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.recipe_flow import ring

    properties = parameter_schema(ring).model_dump()["definitions"]["RunRequest"]["properties"]
    assert properties["recipe"]["enum"] == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert sorted(field["position"] for field in properties.values()) == list(range(len(properties)))
    assert all(field["title"] and field["description"] for field in properties.values())
    assert [name for name, field in properties.items() if "anyOf" in field] == ["seed"]


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
