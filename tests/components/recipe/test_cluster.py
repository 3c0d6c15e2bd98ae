"""The cluster section: what it accepts, what it refuses and where; nothing of it changes a fingerprint."""

from __future__ import annotations

import pytest

from components.failures import BadInput
from components.recipe.cluster import JobResources
from components.recipe.load import read_recipe
from flows.forms import RECIPES
from flows.request import load_graph

S3 = "any words that are a key"


def cluster(*overrides: str):
    return read_recipe("nano", [f"execution.cluster.{each}" for each in overrides], RECIPES).recipe.execution.cluster


def test_a_stage_has_its_own_reservation_else_that_of_its_type_else_the_common_one() -> None:
    found = cluster(
        "resources.cpus=1",
        "stage_resources={rlvr: {cpus: 2, custom: {rack-1: 0.5}}, rlvr-2: {memory_gib: 64}, release: {}}",
    )
    assert found.of_stage("rlvr-1", "rlvr") == JobResources(cpus=2, custom={"rack-1": 0.5})
    assert found.of_stage("rlvr-2", "rlvr") == JobResources(memory_gib=64)
    assert found.of_stage("release", "release") == JobResources()
    assert found.of_stage("sft", "sft") == JobResources(cpus=1)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages=rayjobs", "Did you mean 'rayjob'"),
        ("env.OMP_NUM_THREADS=1", "execution.cluster.env.OMP_NUM_THREADS: input should be a valid string, not 1"),
        ("env={1X: a}", "'1X' is no name of an environment variable"),
        ("env.RAY_ADDRESS=head:6379", "RAY_ADDRESS is taken from the environment of whoever starts the run"),
        ("stage_resources.sft.cpu=2", "unknown key 'cpu'. Did you mean 'cpus'? Accepted keys: cpus, gpus, memory_gib"),
        ("pod.image=registry:5000/ringflow-cpu:latest", "not an image by digest or with a tag that names a version"),
        ("pod.image=registry:5000/ringflow-cpu", "not an image by digest"),
        ("pod.memory_gib=0", "execution.cluster.pod.memory_gib: input should be greater than 0"),
        ("stage_resources.sft.cpus=-1", "execution.cluster.stage_resources.sft.cpus: input should be greater than"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(override: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        cluster(override)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "image", ["ringflow-cpu:0.1.0", "registry:5000/a/b@sha256:" + "0" * 64, "a:main@sha256:" + "1" * 64]
)
def test_a_pinned_image_is_one(image: str) -> None:
    assert cluster(f"pod.image='{image}'").pod.image == image


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "PREFECT_API_AUTH_STRING"])
def test_a_secret_in_env_is_refused_by_its_name_and_not_repeated(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        cluster(f"env={{{name}: {S3}}}")
    assert f"execution.cluster.env.{name}: a recipe holds no secrets" in str(refused.value)
    assert S3 not in str(refused.value)


def test_nothing_of_it_is_in_a_fingerprint() -> None:
    plain, _ = load_graph("nano", (), servers=False)
    given = ["stages=job", "env.A=b", "resources.cpus=3", "directory=/srv", "python=/usr/bin/python3"]
    moved, _ = load_graph("nano", [f"execution.cluster.{each}" for each in given], servers=False)
    assert {n: node.identity({}) for n, node in moved.nodes.items()} == {
        n: node.identity({}) for n, node in plain.nodes.items()
    }
