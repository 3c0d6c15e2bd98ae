"""What all stages of one recipe run share: the store, the tracker, the board, and the wish to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.artifacts.code import CodeState
from components.artifacts.spent import Meter
from components.artifacts.store import Store
from components.failures import Cancelled
from components.recipe.execution import ExecutionConfig
from components.recipe.load import LoadedRecipe
from tasks.board import Board
from tasks.measured import measured_here
from tasks.node import Node
from tasks.progress import PrefectProgress, Progress


class StopSignal:
    """Set once, from any thread or a signal handler; every stage of the run looks at it.

    leaves_jobs: nobody wants the work to end, only this process: jobs of stages go on, for the next run.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""
        self.leaves_jobs = False

    def set(self, reason: str, leaves_jobs: bool = False) -> None:
        if not self._event.is_set():
            self.reason, self.leaves_jobs = reason, leaves_jobs
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    def check(self) -> None:
        if self._event.is_set():
            raise Cancelled(f"stopped: {self.reason}. Finished stages and resume points are kept; run again to go on")


@dataclass
class Session:
    """store: where artifacts are. tracker: the run's lineage (components.lineage), None only where nothing is tracked.

    work: directory for outputs and scratch of running stages. allowed: nodes that may run; others must be finished.
    forced: nodes to compute again, though finished; `repeat` tells their results apart from the earlier ones.
    loaded: the recipe with the origin of every value. code: the code that runs; both are recorded with each artifact.
    sources: digest of the code when the run began, for jobs to compare with theirs; empty where there are none.
    meter: what the flow itself waits for, apart from its stages.
    computed: nodes that committed an artifact in this run. outcomes: what became of each node (flows.result).
    progress: of a node's stage, shown while the block runs. measured: told the scalars of a node's step.
    hardware: held by the stage that uses learners and engines; two would share the same cores or GPUs.
    """

    store: Store
    tracker: Any
    board: Board
    execution: ExecutionConfig
    work: Path
    run_id: str
    repeat: str
    allowed: frozenset[str]
    forced: frozenset[str] = frozenset()
    loaded: LoadedRecipe | None = None
    code: CodeState = field(default_factory=CodeState)
    sources: str = ""
    stop: StopSignal = field(default_factory=StopSignal)
    meter: Meter = field(default_factory=Meter)
    progress: Callable[[str], AbstractContextManager[Progress]] = PrefectProgress.of
    measured: Callable[[str, Mapping[str, float], int], None] = measured_here
    hardware: threading.Lock = field(default_factory=threading.Lock)
    computed: set[str] = field(default_factory=set)
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def repeat_of(self, node: Node) -> str | None:
        """What tells a forced repetition of the node apart; None when it is not forced."""
        return self.repeat if node.name in self.forced else None
