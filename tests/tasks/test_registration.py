"""Registered versions lead to all that explains them, and only a release is ever called candidate or released."""

from __future__ import annotations

import pytest

from components.failures import BadInput
from components.lineage.references import resolve
from tasks.registration import register
from tests.components.lineage.conftest import mlflow_uri, publish, store, tracker  # noqa: F401

pytestmark = pytest.mark.server


@pytest.fixture
def released(tracker, publish):  # noqa: F811
    """register(alias, number) -> (registered model, artifact, run) of a new release."""

    def make(alias: str, number: int):
        name = f"ring-{tracker.experiment_id}"
        summary = {"registered_model": name, "alias": alias, "overall": 0.5}
        ref = publish("release", "release", {"n": number}, summary=summary)
        parent = tracker.pipeline_run("smoke", {"prefect.flow_run_id": f"flow-{number}"})
        with tracker.stage_run(parent, "release", ref.fingerprint, {}, {}) as run:
            run.output("release", ref)
            register(run, ref, tracker.run_url(parent), {"ringflow.recipe": "smoke", "git.commit": "c" * 40})
        return name, ref, run

    return make


def aliases(tracker, name: str) -> dict[str, str]:  # noqa: F811
    return dict(tracker.client.get_registered_model(name).aliases)


def test_a_version_links_lineage_report_card_and_bytes(tracker, store, released):  # noqa: F811
    name, ref, run = released("released", 1)
    version = tracker.client.get_model_version(name, "1")
    for page in ("lineage.html", "README.md"):
        assert f"({run.url}/artifacts/{page})" in version.description
    assert "/artifacts/report.html)" in version.description
    assert f"ringflow verify {ref.uri}" in version.description
    assert version.tags["git.commit"] == "c" * 40
    assert version.tags["ringflow.recipe"] == "smoke"
    assert version.tags["score.overall"] == "0.5"
    assert version.tags["manifest.sha256"] == ref.manifest_sha256
    assert tracker.versions_of([ref.uri]) == {ref.uri: [f"{name}:1 @candidate @released"]}
    for reference in (name, f"{name}@released", f"{name}@candidate", f"{name}:1", f"models:/{name}/1"):
        assert resolve(reference, store, lambda: tracker) == ref


def test_released_moves_only_when_the_recipe_says_so(tracker, store, released):  # noqa: F811
    name, first, _ = released("released", 1)
    assert aliases(tracker, name) == {"candidate": "1", "released": "1"}
    _, second, _ = released("", 2)
    assert aliases(tracker, name) == {"candidate": "2", "released": "1"}
    assert resolve(name, store, tracker) == first
    assert resolve(f"{name}@candidate", store, tracker) == second
    released("released", 3)
    assert aliases(tracker, name) == {"candidate": "3", "released": "3"}


def test_nothing_but_a_release_gets_an_alias(tracker, publish):  # noqa: F811
    checkpoint = publish("sft", "checkpoint")
    name = f"early-{tracker.experiment_id}"
    parent = tracker.pipeline_run("smoke", {"prefect.flow_run_id": "flow-1"})
    with tracker.stage_run(parent, "sft", checkpoint.fingerprint, {}, {}) as run:
        run.output("sft", checkpoint)
    with pytest.raises(BadInput, match=rf"a checkpoint cannot be {name}@released.*release stage, after its gates"):
        tracker.register(checkpoint, name, "released")
    assert tracker.newest_version(name) == ""
