from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from components.artifacts.outside import outside_digests
from components.failures import BadInput
from flows.request import RECIPES, load_graph


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """smoke with a file of records beside the generator."""
    monkeypatch.setenv("RINGFLOW_HOME", str(tmp_path / "home"))
    data = tmp_path / "more.jsonl"
    data.write_text(json.dumps({"prompt": "1+1", "response": "2"}) + "\n")
    text = (RECIPES / "smoke.yaml").read_text()
    text = text.replace(
        "max_level: 1}", f"max_level: 1}}\n    - {{kind: files, uri: {data}, split: sft, licence: cc0}}"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def identity(recipe: Path, node: str = "corpus") -> dict:
    graph, _ = load_graph(str(recipe))
    return graph.nodes[node].identity({})


def test_an_edited_file_is_another_corpus(recipe: Path) -> None:
    data = recipe.parent / "more.jsonl"
    before, base = identity(recipe), identity(recipe, "base")
    os.utime(data, (1, 1))
    assert identity(recipe) == before, "the same bytes at another time"
    data.write_text(json.dumps({"prompt": "1+1", "response": "3"}) + "\n")
    assert identity(recipe) != before
    assert identity(recipe, "base") == base, "stages that do not read it keep their identity"
    graph, _ = load_graph("smoke")
    assert "outside" not in graph.nodes["corpus"].identity({})["config"]


def test_bad_files_are_told_before_anything_starts(recipe: Path) -> None:
    data = recipe.parent / "more.jsonl"
    data.write_text('{"respons": 3}\n')
    with pytest.raises(BadInput, match=r"more\.jsonl.*layout is unknown"):
        load_graph(str(recipe), servers=False)
    data.write_text("no json\n")
    with pytest.raises(BadInput, match=r"more\.jsonl:1: line.*not JSON"):
        load_graph(str(recipe), servers=False)
    data.unlink()
    with pytest.raises(BadInput, match=r"more\.jsonl: no such file"):
        load_graph(str(recipe), servers=False)


def test_a_digest_is_of_the_bytes_and_remembered(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    first = outside_digests([str(file), file.as_uri()], tmp_path)
    assert first[str(file)] == first[file.as_uri()]
    remembered = json.loads((tmp_path / "outside.json").read_text())
    remembered[str(file)][-1] = "0" * 64
    (tmp_path / "outside.json").write_text(json.dumps(remembered))
    assert outside_digests([str(file)], tmp_path) == {str(file): f"sha256:{'0' * 64}"}, "not read again"
    file.write_text("two")
    assert outside_digests([str(file)], tmp_path)[str(file)] not in (first[str(file)], f"sha256:{'0' * 64}")
