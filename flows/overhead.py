"""What a run's orchestration cost: its wall time without what stages spent on their own work, by what it was spent on.

Stages compute one at a time (tasks.session.Session.hardware), so their times add up and the rest of the wall time is
orchestration, whatever it was. Waits that were measured where they happened (components.artifacts.spent) are named;
what remains is Prefect's own work and waiting between tasks. Work of background threads (heartbeats, metrics on their
way) costs no wall time and is not in it; starting learners and engines belongs to the stage that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

START = "start (imports, stack check, recipe)"
NAMES = {
    "S3": "S3 (artifacts, resume points)",
    "hashing": "hashing",
    "leases": "leases",
    "MLflow": "MLflow",
    "report": "run report",
}
REST = "Prefect and between stages"


@dataclass(frozen=True)
class Overhead:
    """wall_s: from the start of the process, or of the flow where several share one. computing_s: of stages' own code.

    parts: name -> seconds; they add up to wall_s - computing_s.
    """

    wall_s: float
    computing_s: float
    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return max(self.wall_s - self.computing_s, 0.0)

    @property
    def share(self) -> float:
        return self.seconds / self.wall_s if self.wall_s > 0 else 0.0

    def rows(self) -> list[tuple[str, float, float]]:
        """(part, seconds, share of the wall time), the largest first, all together last."""
        parts = sorted(self.parts.items(), key=lambda item: -item[1])
        shares = [(name, seconds, seconds / max(self.wall_s, 1e-9)) for name, seconds in parts]
        return [*shares, ("orchestration in all", self.seconds, self.share)]

    def as_json(self) -> dict[str, Any]:
        return {
            "wall_seconds": round(self.wall_s, 3),
            "computing_seconds": round(self.computing_s, 3),
            "orchestration_share": round(self.share, 5),
            "seconds": {name: round(seconds, 3) for name, seconds in self.parts.items()},
        }


def overhead(
    wall_s: float, start_s: float, outcomes: Iterable[Mapping[str, Any]], flow: Mapping[str, float]
) -> Overhead:
    """Adds up a run.

    Args:
        wall_s: so far. start_s: the part of it before the flow began.
        outcomes: of the nodes, with `work_seconds` and `waited` where they ran (tasks.runner.Timing).
        flow: seconds that the flow itself waited, by part.
    """
    waited = dict(flow)
    computing = 0.0
    for outcome in outcomes:
        computing += outcome.get("work_seconds", 0.0)
        for part, seconds in outcome.get("waited", {}).items():
            waited[part] = waited.get(part, 0.0) + seconds
    parts = {START: start_s} | {name: waited.get(part, 0.0) for part, name in NAMES.items()}
    # Stages that only reuse do so side by side: their waits may be more than the time that passed.
    parts[REST] = max(wall_s - computing - sum(parts.values()), 0.0)
    return Overhead(wall_s, computing, parts)
