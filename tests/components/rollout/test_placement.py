"""Who has the turn in an exchange of weights that are still where the learners have them (GPUs; the real groups do it
in `ringflow bench gpu`): the order is what counts here."""

from __future__ import annotations

from components.recipe.execution import ExecutionConfig
from components.rollout.gpu import GpuSettings
from components.rollout.placement import TurnTaking


class Recorded:
    """A group that writes down what is asked of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __getattr__(self, method: str):
        def call(*args, **options):
            said = [str(a) for a in args] + [key for key, value in options.items() if value]
            self.log.append(f"{self.name}.{method} {' '.join(said)}".strip())
            return 7 if method in ("sleep", "offload") else "done"

        return call


def test_weights_that_were_not_moved_yet_find_both_sides_awake():
    log: list[str] = []
    turns = TurnTaking(Recorded("engines", log), Recorded("learners", log))
    turns.learners.policy_step()
    promised = object()
    assert turns.engines.publish(4, promised) == "done"
    turns.engines.generate()
    turns.engines.publish(5, {"weight": 1})  # in hand: nothing of the learners is needed
    turns.learners.logprobs()
    assert log == [
        "engines.sleep",
        "learners.onload",
        "learners.policy_step",
        "learners.onload",
        "engines.wake weights_only",
        f"engines.publish 4 {promised}",
        "learners.offload",
        "engines.wake",
        "engines.generate",
        "engines.publish 5 {'weight': 1}",
        "engines.sleep",
        "learners.onload",
        "learners.logprobs",
    ]
    assert turns.turns.released == {"engines": [7, 7], "learners": [7]}


def test_what_an_engine_is_told_on_gpus():
    assert GpuSettings.of(ExecutionConfig()) is None
    shared = GpuSettings.of(ExecutionConfig(device="cuda", placement="colocated"))
    assert shared is not None
    assert shared.arguments() == {
        "enforce_eager": True,
        "enable_sleep_mode": True,
        "gpu_memory_utilization": 0.4,
        "weight_transfer_config": {"backend": "ipc"},
    }
    apart = GpuSettings.of(ExecutionConfig(device="cuda", placement="disaggregated", engine_graphs=True))
    assert apart == GpuSettings(0.9, "nccl", graphs=True)
    assert "enforce_eager" not in apart.arguments()
    assert GpuSettings.of(ExecutionConfig(device="cuda", engine_memory=0.6)) == GpuSettings(0.6, "ipc")
