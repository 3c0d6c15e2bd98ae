"""`ringflow data clean` as a person runs it: the table, the files, and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUESTION = "A farmer keeps 14 hens and 9 ducks. Every hen lays 5 eggs a week. How many eggs are laid in 3 weeks?"


def clean(folder, *arguments):
    command = [sys.executable, "-c", "from flows.cli.app import run_app; run_app()", "data", "clean", "--no-semantic"]
    command += [*arguments, "--out", str(folder / "out")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_table_and_the_exit_codes(tmp_path):
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "210"}) + "\n")
    rows = [json.dumps({"text": text}) for text in (f"See: {QUESTION}", "Nothing of note.", "Nor here.")]
    (tmp_path / "good.jsonl").write_text("\n".join(rows))
    (tmp_path / "bad.jsonl").write_text("\n".join([*rows, "{no record", "nor this"]))
    benchmark = ("--benchmark", str(tmp_path / "bench.jsonl"))

    done = clean(tmp_path, str(tmp_path / "good.jsonl"), *benchmark)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line]
    assert ["good.jsonl", "3", "2", "1", "0", "0", "0"] in table
    assert (tmp_path / "out" / "clean.jsonl").read_text().splitlines() == rows[1:]

    done = clean(tmp_path, str(tmp_path / "bad.jsonl"), *benchmark)
    assert done.returncode == 3
    assert "critical" in done.stdout
    assert "too many malformed records (40.0%, limit 1%)" in done.stdout
    quarantined = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").open()]
    assert [(row["file"].rpartition("/")[2], row["line"]) for row in quarantined] == [
        ("bad.jsonl", 4),
        ("bad.jsonl", 5),
    ]

    done = clean(tmp_path, str(tmp_path / "none.jsonl"), *benchmark)
    assert done.returncode == 2
    assert "none.jsonl" in done.stderr
