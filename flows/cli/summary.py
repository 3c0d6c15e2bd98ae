"""The end of `ringflow run`: a table over stages, the scores, and where to look. Readable at 80 columns."""

from __future__ import annotations

from collections.abc import Collection

from flows.board import SYMBOLS
from flows.cli.output import print_json, print_table, seconds
from flows.result import RunResult
from tasks.runner import summary_text

# Scores that fit beside each other in 80 columns.
COLUMNS = 7


def print_result(result: RunResult, wall: float, json_: bool, benchmarks: Collection[str] | None = None) -> None:
    """benchmarks: scores to show; all when absent."""
    if json_:
        print_json(result.as_json() | {"wall_seconds": round(wall, 3)})
        return
    rows = []
    for stage in result.stages:
        text = summary_text(stage.ref) if stage.ref else "see below" if stage.state == "failed" else ""
        took = seconds(stage.seconds) if stage.state == "done" else ""
        rows.append([f"{SYMBOLS[stage.state]} {stage.node}", stage.state, took, text])
    print_table(["stage", "state", "time", "result"], rows, right=["time"])
    scores = result.scores()
    names = list(dict.fromkeys(name for values in scores.values() for name in values))
    names = [name for name in names if not benchmarks or name in benchmarks]
    if len(names) > COLUMNS:
        names = [*[name for name in names if name != "overall"][: COLUMNS - 1], "overall"]
    if names:
        shown = _short(names)
        rows = [[node, *(f"{100 * v[n]:.1f}" if n in v else "" for n in names)] for node, v in scores.items()]
        print()
        print_table(["score, % after", *shown], rows, right=shown)
    print()
    for stage in result.stages:
        if stage.state == "failed":
            print(f"{stage.node} failed: {stage.error}")
    verdict = "succeeded" if result.succeeded else "stopped" if result.cancelled else "failed"
    print(
        f"{result.run_name} {verdict} in {seconds(wall)}: {result.message() if result.succeeded else ''}".rstrip(": ")
    )
    for name, link in result.links.items():
        if name != "Run report" and " of " not in name:  # the same page as Report here; pages of single stages
            print(f"  {name:<15} {link}")
    if result.overhead is not None and result.overhead.computing_s > 0:
        rows = [[part, f"{spent:.1f}", f"{100 * share:.2f}"] for part, spent, share in result.overhead.rows()]
        print()
        print_table(["orchestration", "seconds", "% of wall"], rows, right=["seconds", "% of wall"])
    released = next((s.ref.summary for s in result.stages if s.ref and "registered_model" in s.ref.summary), None)
    if released:
        print(f"  talk to it: ringflow chat models:/{released['registered_model']}@{released['alias']}")
    if not result.succeeded:
        print(f"  go on: ringflow rerun {result.run_name}")


def _short(names: list[str]) -> list[str]:
    """Without the part that all benchmarks begin with: nano-math, nano-code -> math, code."""
    prefix = f"{names[0].partition('-')[0]}-"
    same = all(name.startswith(prefix) for name in names if name != "overall")
    return [name.removeprefix(prefix) for name in names] if same else names
