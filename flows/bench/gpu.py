"""The first run on a GPU host: every part that CPUs cannot try, checked on one GPU, as a table.

Each part is a process of its own, so that one that fails leaves the others and the device alone. `-o device=cpu` runs
the same checks where there is no GPU, to check the checks.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from components.failures import BadInput
from flows.bench import Bench, Check, Figure

PARTS = ("learner", "fused", "engine", "released")
EXPORTS = ("bfloat16", "fp8", "int4")
DEADLINE_S = 900.0


def run(part: str = ",".join(PARTS), device: str = "cuda", model: str = "", exports: str = "") -> Bench:
    """part: which of `learner`, `fused` (MTP, Transformer Engine, FP8), `engine`, `released`, joined by commas.
    model: a Hugging Face directory of `nano`'s shape for the engine's part. exports: a directory with `bfloat16`,
    `fp8`, `int4` of one model (`ringflow export`).

    Raises:
        BadInput: no such part, no export for `released`, or no GPU.
    """
    parts = part.split(",")
    if unknown := set(parts) - set(PARTS):
        raise BadInput(f"no part is called {unknown.pop()!r}", where="part", remedy=f"Parts: {', '.join(PARTS)}")
    found = [Path(exports).resolve() / name for name in EXPORTS if exports and (Path(exports) / name).is_dir()]
    if not found and (exports or parts == ["released"]):
        raise BadInput(
            f"none of {', '.join(EXPORTS)} is here",
            where=f"exports={exports}",
            remedy="Write one: ringflow export MODEL --dtype fp8 --out DIR/fp8, and name DIR",
        )
    setup = _about(device)
    figures: dict[str, Figure] = {}
    checks: dict[str, Check] = {}
    for name in parts:
        # Engines do not give all of a GPU back before their process ends: one for each export.
        for directory in found if name == "released" else [None]:
            title = name if directory is None else f"{name} {directory.name}"
            for passed, measured in _apart(name, device, model, directory):
                checks |= {f"{title}: {what}": check for what, check in passed.items()}
                figures |= {f"{title}: {what}": figure for what, figure in measured.items()}
    return Bench(figures, setup, checks)


def _about(device: str) -> dict[str, Any]:
    import torch

    if device != "cuda":
        return {"device": device, "torch": torch.__version__}
    if not torch.cuda.is_available():
        raise BadInput("torch sees no GPU", where="device", remedy="See docs/gpu.md, or -o device=cpu for a rehearsal")
    return {
        "device": torch.cuda.get_device_name(),
        "memory GB": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "torch": torch.__version__,
    }


def _apart(
    name: str, device: str, model: str, export: Path | None
) -> Iterator[tuple[dict[str, Check], dict[str, Figure]]]:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(writer, name, device, model, export))
    process.start()
    writer.close()
    ends = monotonic() + DEADLINE_S
    try:
        while True:
            if not reader.poll(max(0.0, ends - monotonic())):
                yield _stopped(f"not finished after {DEADLINE_S:g} s")
                return
            try:
                found = reader.recv()
            except EOFError:
                process.join(10)
                yield _stopped(f"the process ended with code {process.exitcode}")
                return
            if found is None:
                return
            yield found
    finally:
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def _stopped(why: str) -> tuple[dict[str, Check], dict[str, Figure]]:
    return {"ran to its end": Check(float("nan"), 0.0, why=why)}, {}


def _work(writer: Any, name: str, device: str, model: str, export: Path | None) -> None:
    try:
        if name == "learner":
            from flows.bench._gpu_learner import run as found
        elif name == "fused":
            from flows.bench._gpu_fused import run as found
        elif name == "engine":
            from flows.bench._gpu_engine import run as found
        else:
            from flows.bench._gpu_engine import released as found
        given = {"engine": (model,), "released": (str(export),)}
        for each in found(device, *given.get(name, ())):
            writer.send(each)
        writer.send(None)
    except Exception as error:
        traceback.print_exc()
        writer.send(_stopped(f"{type(error).__name__}: {error}".splitlines()[0][:200]))
        writer.send(None)
