"""Who made an artifact, when, from which code, values and inputs, on what, and how long it took.

It is kept in the manifest, beside the identity and apart from it: nothing here is part of the stage's fingerprint, so
another machine, clock or commit computes nothing anew.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.artifacts.code import CodeState
from components.artifacts.digest import digest_json
from components.artifacts.ref import ArtifactRef
from components.recipe.execution import ExecutionConfig
from components.recipe.recipe import Recipe

GPU_DEADLINE_S = 10


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hardware(Strict):
    """The machine of the process that ran the stage. cores: those it may use; gpus: one name per device."""

    cpu: str = ""
    cores: int = 0
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Hardware:
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            gpus=_gpus(),
        )

    def __str__(self) -> str:
        parts = [f"{self.cores} x {self.cpu}", f"{self.memory_bytes / 2**30:.1f} GiB"]
        parts += [f"{self.gpus.count(name)} x {name}" for name in dict.fromkeys(self.gpus)]
        return ", ".join(parts)


class Work(Strict):
    """wall_s: seconds inside the stage's function, with those before the resume point it went on from.

    device, devices: what the recipe's execution section gives a stage.
    """

    wall_s: float = 0.0
    device: Literal["core", "gpu"] = "core"
    devices: int = 1

    @property
    def device_hours(self) -> float:
        return self.wall_s * self.devices / 3600

    @classmethod
    def of(cls, execution: ExecutionConfig, wall_s: float) -> Work:
        """Learners and engines take turns on the same devices, so the larger group counts."""
        if execution.device == "cuda":
            devices = max(execution.learners, execution.engines * execution.engine_tensor_parallel)
            return cls(wall_s=wall_s, device="gpu", devices=devices)
        return cls(wall_s=wall_s, devices=max(execution.learners, execution.engines) * execution.threads)


class ConfigValue(Strict):
    """origin: `default`, `file:line` of the recipe, or the override as it was given."""

    value: Any
    origin: str


class Provenance(Strict):
    """Not part of the identity. Fields that older artifacts lack are empty; `reads` is None when it was not recorded.

    recipe, recipe_version: the name, and the version that recipe_version() gives the values the run had.
    git_diff_sha256: digest of the uncommitted changes, whose text is the record `git.diff`.
    config: every value that the stage got, by its key in the recipe; the whole recipe is the record `config.json`.
    reads: input name -> files and folders that the stage opened in it, `.` for all.
    """

    created: str
    host: str
    seed: int
    git_commit: str = ""
    git_dirty: bool = False
    git_diff_sha256: str = ""
    lock: str = ""
    lock_sha256: str = ""
    recipe: str = ""
    recipe_version: str = ""
    recipe_seed: int | None = None
    hardware: Hardware | None = None
    work: Work | None = None
    config: dict[str, ConfigValue] = {}
    reads: dict[str, tuple[str, ...]] | None = None
    prefect_run_id: str = ""
    mlflow_run_id: str = ""
    inputs: dict[str, ArtifactRef] = {}

    @classmethod
    def collect(cls, code: CodeState, seed: int, inputs: Mapping[str, ArtifactRef], **facts: Any) -> Provenance:
        """Adds time, host and code to what the caller knows (`facts`: the other fields)."""
        return cls(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            host=platform.node(),
            seed=seed,
            git_commit=code.commit,
            git_dirty=code.dirty,
            git_diff_sha256=code.diff_sha256,
            lock=code.lock,
            lock_sha256=code.lock_sha256,
            inputs=dict(inputs),
            **facts,
        )


def recipe_version(recipe: Recipe) -> str:
    """12 hex digits of the recipe's identity: equal for two runs that compute the same, wherever they run."""
    values = {name: getattr(recipe, name) for name in type(recipe).model_fields}
    for name in ("execution", "description"):
        del values[name]
    return digest_json(values)[:12]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=GPU_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip()) if found.returncode == 0 else ()
