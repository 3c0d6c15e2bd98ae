"""The lineage graph from really committed artifacts: complete, checked, and readable in every form."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from components.failures import BadInput, IntegrityError
from components.lineage.graph import lineage, resolve
from components.lineage.render import picture, render_html, render_json, render_mermaid, render_text

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
    assert graph.nodes[chain["base"].uri].git_commit == "c" * 40
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
    assert "<script" not in html
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    for source in SOURCES:
        assert source["sha256"] in html


def test_a_broken_link_is_an_error_and_not_a_gap(store, chain):
    store.objects.remove(f"{store.key(chain['base'].uri)}/manifest.json")
    with pytest.raises(IntegrityError, match=r"base/.*manifest\.json is missing"):
        lineage(store, chain["release"])


def test_references_people_use(store, chain):
    sft = chain["sft"]
    assert resolve(sft.uri, store, None) == sft
    assert resolve(f"sft@{sft.fingerprint[:8]}", store, None, "p") == sft
    assert (
        resolve(f"evaluate-sft@{chain['evaluate-sft'].fingerprint[:8]}/math/avg@8", store, None, "p").stage
        == "evaluate-sft"
    )
    for wrong, known in (("sft@", "Known: sft@"), ("sft@ffffz", "Known: sft@"), ("nothing@1", "Known: base@")):
        with pytest.raises(BadInput, match=known):
            resolve(wrong, store, None, "p")
    with pytest.raises(BadInput, match="Known: math/avg@8"):
        resolve(f"evaluate-sft@{chain['evaluate-sft'].fingerprint}/nothing", store, None, "p")
    with pytest.raises(BadInput, match="needs MLflow"):
        resolve("models:/nano@released", store, None)


def test_models_and_runs_resolve_through_mlflow(store, chain, tracker):
    release = chain["release"]
    parent = tracker.pipeline_run("smoke", {"prefect.flow_run_id": "flow-9"})
    with tracker.stage_run(parent, "release", release.fingerprint, {}, {}) as run:
        run.output("release", release)
    name = f"ring-{tracker.experiment_id}"
    tracker.register(release, name, "released")
    assert resolve(f"models:/{name}@released", store, tracker) == release
    assert resolve(run.run_id, store, tracker) == release
    with pytest.raises(BadInput, match="names no artifact"):
        resolve(parent, store, tracker)
    tracker.reused(parent, "release", release)
    assert resolve(parent, store, tracker) == release
