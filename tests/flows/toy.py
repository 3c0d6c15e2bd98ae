"""Tiny stages with a memory on disk, so that a test sees which stage ran, from which step, and can make it fail.

`python -m tests.flows.toy ...` is the `ringflow` command with these stages. TOY_DIR holds: `calls` (one line per step,
`node step`), `fail-NODE` (an exception's name: raised at step 3), `block-NODE` (the stage waits there for its end),
`fill-NODE` (so many bytes are written to the stage's scratch at step 3), `linger-NODE` (so many seconds the process
takes to end after all else).
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path

from components import failures
from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from tasks.stage import STAGES, StageConfig

STEPS = 5
TURN = 3


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Counts to five, sending a file and saving each step; its output holds the sum of its inputs' counts."""
    directory = Path(os.environ["TOY_DIR"])
    point = context.resume.latest()
    count = point.state["count"] if point else 0
    for step in range(point.step + 1 if point else 1, STEPS + 1):
        context.check()
        with (directory / "calls").open("a") as stream:
            stream.write(f"{context.node} {step}\n")
        if step == TURN:
            _turn(directory, context)
        count += 1
        context.outbox.send(f"sent/{step}", f"{count}".encode())
        context.metrics({"loss": 1 / step}, step)
        context.progress(step, STEPS, "counting")
        (context.scratch / "point").mkdir(exist_ok=True)
        (context.scratch / "point" / "count").write_text(str(count))
        context.resume.save(step, context.scratch / "point", {"count": count})
    total = count + sum(json.loads((context.fetch(ref, "count.json")).read_text()) for ref in inputs.values())
    (context.output / "count.json").write_text(json.dumps(total))
    if config.section is not None and context.node == "corpus":
        (context.output / "sources.json").write_text(
            json.dumps([{"uri": "generator://toy", "sha256": "0" * 64, "licence": "none", "records": 1}])
        )
    return StageResult({"count": total, "overall": 0.5})


def _turn(directory: Path, context: StageContext) -> None:
    failing, blocking = directory / f"fail-{context.node}", directory / f"block-{context.node}"
    if (filling := directory / f"fill-{context.node}").exists():
        (context.scratch / "filling").write_bytes(bytes(int(filling.read_text())))
    if (lingering := directory / f"linger-{context.node}").exists():
        atexit.register(time.sleep, float(lingering.read_text()))
    if failing.exists():
        kind = failing.read_text().strip()
        raise getattr(failures, kind, ValueError)(f"made to fail with {kind}")
    while blocking.exists():
        (directory / f"blocked-{context.node}").touch()
        context.check()
        time.sleep(0.05)


def install() -> None:
    """Puts the toy in the place of every stage's module."""
    for stage in STAGES.values():
        module = types.ModuleType(f"tasks.stages.{stage.type.replace('-', '_')}")
        module.run = run
        sys.modules[module.__name__] = module


if __name__ == "__main__":
    from flows.cli import main

    install()
    main()
