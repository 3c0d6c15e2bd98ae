"""The lineage graph from really committed artifacts: complete, checked, and readable in every form."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError
from components.lineage.graph import lineage
from components.lineage.page import picture, render_html
from components.lineage.references import resolve
from components.lineage.render import render_json, render_mermaid, render_text

SOURCES = [
    {
        "uri": "s3://data/math/part-00000-of-00128-a-very-long-name-indeed.jsonl.gz",
        "sha256": "a" * 64,
        "licence": "mit",
        "records": 900,
    },
    {"uri": "generator://nano?seed=0", "sha256": "b" * 64, "licence": "", "records": 100},
]


@pytest.fixture
def chain(publish):
    """A release with everything behind it, by name."""
    corpus = publish("corpus", "corpus", files={"sources.json": json.dumps(SOURCES)}, summary={"records": 1000})
    clean = publish("decontaminate", "clean-corpus", {"ngram": 13}, {"corpus": corpus}, summary={"removed": 12})
    base = publish("base", "checkpoint", {"steps": 10}, {"data": clean}, summary={"loss": 2.5}, git_commit="c" * 40)
    sft = publish("sft", "checkpoint", {"steps": 20}, {"model": base, "data": clean}, git_commit="d" * 40)
    scores = publish("evaluate-sft", "evaluation", {}, {"model": sft, "corpus": corpus}, summary={"math/avg@8": 0.5})
    release = publish("release", "release", {}, {"model": sft, "evaluate-sft": scores, "corpus": corpus})
    return {ref.stage: ref for ref in (corpus, clean, base, sft, scores, release)}


def test_the_graph_reaches_every_source(store, chain):
    graph = lineage(store, chain["release"])
    assert {node.ref.stage for node in graph.nodes.values()} == set(chain)
    order = list(graph.nodes)
    for uri, node in graph.nodes.items():
        assert all(order.index(uri) < order.index(parent) for parent in node.inputs.values())
    assert [(source.records, source.licence) for source in graph.sources] == [(900, "mit"), (100, "unknown")]
    assert graph.nodes[chain["base"].uri].made.git_commit == "c" * 40
    assert graph.nodes[chain["decontaminate"].uri].config == {"ngram": 13}
    assert {node.ref.stage for node in lineage(store, chain["base"]).nodes.values()} == {
        "base",
        "decontaminate",
        "corpus",
    }


def test_text_fits_a_terminal_and_names_everything(store, chain):
    text = render_text(lineage(store, chain["release"]))
    assert max(len(line) for line in text.splitlines()) <= 80
    for ref in chain.values():
        assert f"{ref.stage}@{ref.fingerprint[:12]}" in text
    assert "900 records, mit, sha256 aaaaaaaaaaaa" in text
    assert "6 artifacts, 2 data sources with 1000 records, 2 commits" in text
    assert text.count("ngram") == 0
    assert text.count("removed 12") == 1, "an artifact used twice is expanded once"


def test_json_mermaid_html_and_svg_are_well_formed(store, chain):
    graph = lineage(store, chain["release"])
    plain = json.loads(render_json(graph))
    assert len(plain["nodes"]) == 6
    assert len(plain["edges"]) == 9
    assert {"from": chain["sft"].uri, "to": chain["release"].uri, "input": "model"} in plain["edges"]
    mermaid = render_mermaid(graph)
    assert mermaid.startswith("flowchart LR\n")
    assert len(re.findall(r"-->\|", mermaid)) == 9
    assert len(ElementTree.fromstring(picture(graph)).findall("{http://www.w3.org/2000/svg}g")) == 7
    html = render_html(graph)
    assert html.count("<script") == 1, "one script, in the page, that moves the picture"
    assert not re.search(r"<script[^>]+src|@import|url\(", html)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    for source in SOURCES:
        assert source["sha256"] in html


def test_a_broken_link_is_an_error_and_not_a_gap(store, chain, tmp_path):
    store.objects.remove(f"{store.key(chain['base'].uri)}/manifest.json")
    another = Store.open(store.url, tmp_path / "another")  # the one that published it has read its manifest
    with pytest.raises(IntegrityError, match=r"base/.*manifest\.json is missing"):
        lineage(another, chain["release"])


def test_everything_recorded_is_shown(store, publish):
    made = {
        "recipe": "nano",
        "recipe_version": "0123456789ab",
        "git_commit": "c" * 40,
        "git_dirty": True,
        "git_diff_sha256": "d" * 64,
        "lock": "requirements.lock",
        "lock_sha256": "e" * 64,
        "hardware": {"cpu": "Xeon", "cores": 2, "memory_bytes": 8 << 30, "gpus": ["H200", "H200"]},
        "work": {"wall_s": 1800.0, "device": "gpu", "devices": 2},
        "values": {
            "sft.steps": {"value": 9, "origin": "--set sft.steps=9"},
            "sft.lr": {"value": 0.1, "origin": "nano.yaml:7"},
            "sft.decay": {"value": 0.0, "origin": "default"},
        },
        "prefect_run_id": "flow-run-id",
    }
    ref = publish("sft", "checkpoint", **made)
    graph = lineage(store, ref)
    text, html, plain = render_text(graph), render_html(graph), json.loads(render_json(graph))
    assert "recipe nano 0123456789ab, seed 0, 1800.0 s on 2 gpus" in text
    assert "sft.steps = 9 (--set sft.steps=9)" in text
    assert "1800.0 s of work, 1 gpu-hours" in text
    assert "on 2 x Xeon, 8.0 GiB, 2 x H200" in text
    for shown in ("nano.yaml:7", "--set sft.steps=9", "default", "d" * 64, "requirements.lock", "flow-run-id", "H200"):
        assert shown in html
    node = plain["nodes"][0]
    assert node["made"]["config"]["sft.lr"] == {"value": 0.1, "origin": "nano.yaml:7"}
    assert node["device_hours"] == 1.0


def test_what_decontamination_removed_and_why(store, publish):
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {"item": "r1", "split": "sft", "field": "question", "benchmark": "aime", "benchmark_item": "7"}
    found |= {"level": "ngram", "score": 0.9}
    sink = pa.BufferOutputStream()
    rows = [found | {"decision": "removed"}, found | {"item": "r2", "decision": "review"}]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    counts = {
        "sft": {"records": 10, "kept": 9, "removed": 1, "review": 1, "template": 0, "removed:ngram": 1},
        "benchmarks": {"aime": {"items": 30, "hit_items": 1, "removed": 1, "review": 1, "template": 0}},
    }
    files = {
        "decontamination.json": json.dumps({"counts": counts}),
        "evidence.parquet": sink.getvalue().to_pybytes(),
    }
    graph = lineage(store, publish("decontaminate", "clean-corpus", files=files))
    (node,) = graph.cleaned
    assert [(r.item, r.benchmark, r.level) for r in node.cleaned.removals] == [("r1", "aime", "ngram")]
    assert "removed 1 of 10 from sft (1 ngram)" in render_text(graph)
    assert "resembling 1 of 30 items of aime: 1" in render_text(graph)
    html = render_html(graph)
    assert '<td class="wrap">r1</td>' in html
    assert "r2" not in html


def test_references_people_use(store, chain, tmp_path):
    sft, scores = chain["sft"], chain["evaluate-sft"]
    inside = f"{chain['corpus'].uri}/files/sources.json"
    for reference, expected in {
        sft.uri: sft,
        inside: chain["corpus"],
        f"sft@{sft.fingerprint[:8]}": sft,
        sft.fingerprint: sft,
        sft.fingerprint[:9]: sft,
        sft.manifest_sha256: sft,
        "sft": sft,
        f"evaluate-sft@{scores.fingerprint[:8]}/math/avg@8": scores,
        "evaluate-sft/math/avg@8": scores,
    }.items():
        assert resolve(reference, store) == expected, reference
    released = tmp_path / "sources.json"
    released.write_text(json.dumps(SOURCES))
    assert resolve(str(released), store) == chain["corpus"]
    released.write_text("changed")
    with pytest.raises(BadInput, match="no artifact holds a file of sha256"):
        resolve(str(released), store)
    for wrong, known in (("sft@", "Known: sft@"), ("sft@ffffz", "Known: sft@"), ("nothing@1", "Known: base@")):
        with pytest.raises(BadInput, match=known):
            resolve(wrong, store)
    with pytest.raises(BadInput, match="Known: math/avg@8"):
        resolve(f"evaluate-sft@{scores.fingerprint}/nothing", store)
    with pytest.raises(BadInput, match="needs MLflow"):
        resolve("models:/nano@released", store)


def test_artifacts_of_every_project_are_found(store, publish):
    ours, theirs = publish("sft", "checkpoint", {"n": 1}), publish("sft", "checkpoint", {"n": 2}, project="other")
    assert resolve(theirs.fingerprint[:12], store) == theirs
    assert resolve(f"sft@{ours.fingerprint[:12]}", store) == ours
    store.objects.remove(f"{store.key(ours.uri)}/manifest.json")
    assert resolve(theirs.fingerprint[:12], store) == theirs, "a damaged artifact hides no other one"


def test_models_and_runs_resolve_through_mlflow(store, chain, tracker):
    release = chain["release"]
    parent = tracker.pipeline_run("smoke", {"prefect.flow_run_id": "flow-9"})
    with tracker.stage_run(parent, "release", release.fingerprint, {}, {}) as run:
        run.output("release", release)
    name = f"ring-{tracker.experiment_id}"
    tracker.register(release, name, "released")
    for reference in (f"models:/{name}@released", f"{name}@released", f"{name}:1", name):
        assert resolve(reference, store, tracker) == release
    version = tracker.client.get_model_version(name, "1")
    tracker.client.set_model_version_tag(name, version.version, "manifest.sha256", "f" * 64)
    with pytest.raises(IntegrityError, match=rf"recorded manifest sha256 f+, .* has {release.manifest_sha256}"):
        resolve(f"{name}:1", store, tracker)
    assert resolve(run.run_id, store, tracker) == release
    with pytest.raises(BadInput, match="names no artifact"):
        resolve(parent, store, tracker)
    tracker.reused(parent, "release", release)
    assert resolve(parent, store, tracker) == release
