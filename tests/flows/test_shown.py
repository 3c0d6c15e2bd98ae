"""The page of a run and the report of what changed in the data, from their parts; no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.artifacts.fingerprint import fingerprint_of, identity_of, input_identity
from components.artifacts.lease import Lease
from components.artifacts.provenance import Provenance
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.artifacts.tidy import Leftover
from flows.refresh_flow import compare
from flows.result import ADVICE, DEFECT, MACHINERY, advice
from flows.shown import run_page, score_rows
from flows.tidy import Tidied, shown_bytes
from tasks.board import Line, Lines, Several


def evaluation(**scores: float) -> ArtifactRef:
    return ArtifactRef(
        kind="evaluation",
        stage="evaluate",
        fingerprint="a" * 64,
        uri="s3://b/p/evaluate/a",
        manifest_sha256="b" * 64,
        summary={"items": 3, **scores},
    )


def test_scores_are_shown_in_percent_one_row_per_stage() -> None:
    outcomes = {
        "evaluate-sft": {"state": "done", "ref": evaluation(overall=0.25, math=0.5)},
        "rlvr-1": {"state": "failed", "error": "x"},
    }
    assert score_rows(outcomes) == [{"after": "sft", "overall": 25.0, "math": 50.0}]
    assert score_rows({}) == []


def test_page_names_stages_links_and_what_to_do() -> None:
    lines = {
        "sft": Line("done", "loss 0.3", began=0.0, ended=12.0),
        "rlvr-1": Line("failed", "NaN | in step 3", began=12.0, ended=13.0),
        "rlhf": Line("running", "", done=30, total=120, began=1.0),
    }
    outcomes = {"rlvr-1": {"state": "failed", "error": "NaN in\nstep 3", "kind": "Diverged"}}
    links = {"MLflow": "http://m/#/runs/1", "Report": "/home/somebody/report.html"}
    page = run_page("nano-1", "running", lines, outcomes, links)
    assert "2 of 3 stages: running" in page
    assert "[MLflow](http://m/#/runs/1)" in page
    assert "/home/somebody" not in page
    assert "| sft | ✔ done | 12 s | loss 0.3 |" in page
    assert "| rlhf | ▶ running 25 % |" in page
    assert "NaN / in step 3" in page, "a bar would end the cell"
    assert "> NaN in\n> step 3" in page
    assert ADVICE["Diverged"] in page


def test_every_failure_kind_has_a_way_out() -> None:
    from components import failures

    kinds = [name for name, kind in vars(failures).items() if isinstance(kind, type)]
    told = {kind: advice(kind) for kind in kinds if kind not in ("RingflowError", "Cancelled")}
    assert DEFECT not in told.values()
    assert told["DeadlineExceeded"] == told["InfrastructureError"] == MACHINERY
    assert advice("ZeroDivisionError") == DEFECT


def test_several_boards_hear_the_same() -> None:
    one, other = Lines(["sft"]), Lines(["sft"])
    both = Several(one, other)
    both.state("sft", "running")
    both.progress("sft", 1, 2, "half")
    assert one.snapshot()["sft"].text == other.snapshot()["sft"].text == "half"


def test_what_housekeeping_did_in_one_line() -> None:
    found = (
        Leftover("attempt", "s3://b/x", "never committed, 3 days old", 3 << 20),
        Leftover("attempt", "s3://b/y", "never committed, 3 days old", 1 << 20, kept="a run works on it"),
        Leftover("run", "nano-1", "its process is gone"),
    )
    told = Tidied(found, False).message()
    assert told == "tidied: 1 crashed runs marked, 1 abandoned attempts, 3.0 MiB; 1 left alone"
    assert [row["result"] for row in Tidied(found, True).rows()] == ["would go", "left: a run works on it", "would go"]
    assert Tidied((), True).message() == "nothing to tidy"
    assert shown_bytes(0) == "0 B"
    assert shown_bytes(5 << 30) == "5.0 GiB"


def publish(store: Store, tmp_path: Path, shards: dict[str, tuple[str, int]], ngram: int = 13) -> ArtifactRef:
    """A corpus of the shards {uri: (sha256, records)} and its clean corpus; returns the latter."""
    entries = [
        {"uri": uri, "sha256": sha256, "licence": "cc0", "records": records, "split": "sft"}
        for uri, (sha256, records) in shards.items()
    ]
    total = sum(records for _, records in shards.values())
    corpus = _publish(store, tmp_path, "corpus", "corpus", {"shards": entries}, {}, {"sources.json": entries}, total)
    return _publish(store, tmp_path, "decontaminate", "clean-corpus", {"ngram": ngram}, {"corpus": corpus}, {}, total)


def _publish(store, tmp_path, stage, kind, config, inputs, files, records) -> ArtifactRef:
    digests = {name: input_identity(ref.fingerprint, ref.manifest_sha256) for name, ref in inputs.items()}
    identity = identity_of(stage, 1, config, digests, 0)
    made = Provenance(created="2026-11-24T03:00:00+00:00", host="h", seed=0, recipe="nano", inputs=inputs)
    folder = tmp_path / stage
    folder.mkdir(exist_ok=True)
    for name, content in {"data.json": config, **files}.items():
        (folder / name).write_text(json.dumps(content))
    with Lease.acquire(store, "p", stage, fingerprint_of(identity), ttl_s=5) as lease:
        return store.publish(lease, folder, kind, identity, made, summary={"sft": records})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    opened.check(5, create=True)
    return opened


def test_refresh_tells_which_sources_changed(store: Store, tmp_path: Path) -> None:
    first = publish(store, tmp_path, {"a.jsonl": ("1" * 64, 10), "b.jsonl": ("2" * 64, 5)})
    assert compare(store, None, first).message.startswith("first data of this recipe: decontaminate@")
    before = store.newest("p", "decontaminate", "nano")
    assert before == first
    same = compare(store, before, first)
    assert not same.changed
    assert "did not change since 2026-11-24T03:00" in same.message
    now = publish(store, tmp_path, {"a.jsonl": ("3" * 64, 12), "c.jsonl": ("4" * 64, 1)})
    change = compare(store, before, now)
    assert change.changed
    assert [(row["source"], row["change"]) for row in change.rows] == [
        ("a.jsonl", "changed"),
        ("b.jsonl", "removed"),
        ("c.jsonl", "added"),
    ]
    assert change.rows[0]["records before"] == 10
    assert change.rows[0]["records now"] == 12
    assert "1 changed, 1 removed, 1 added" in change.message
    assert "sft 15 -> 13" in change.message
    settings = publish(store, tmp_path, {"a.jsonl": ("1" * 64, 10), "b.jsonl": ("2" * 64, 5)}, ngram=10)
    assert "other settings" in compare(store, before, settings).rows[0]["change"]
