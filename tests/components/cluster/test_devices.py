"""GPUs that groups share, on a Ray that is told it has some: which worker sees which device needs no hardware."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.cluster.devices import shared_devices
from components.failures import BadInput
from components.recipe.execution import ExecutionConfig

ROOT = Path(__file__).parents[3]

PLACED = """
import json, logging, ray
from components.cluster import connect as _
_._stay_on_loopback()
ray.init(address="local", num_cpus=2, num_gpus=4, include_dashboard=False, _node_ip_address="127.0.0.1",
         object_store_memory=100 * 1024**2, log_to_driver=False, logging_level=logging.ERROR)
from components.cluster.devices import SharedDevices, shared_devices
from components.cluster.warm import release_all
from components.cluster.workers import WorkerGroup
from components.failures import DeadlineExceeded
from components.recipe.execution import ExecutionConfig

execution = ExecutionConfig(device="cuda", learners=4, engines=2, engine_tensor_parallel=2, start_deadline_s=60)
places = shared_devices(execution)
assert shared_devices(execution) is places

def seen(world, devices):
    group = WorkerGroup("tests.components.cluster.sample_worker:SampleWorker", world, [(0,)] * world, threads=0,
                        devices=devices, deadline_s=120)
    found = [s["gpus"] for s in group.call("surroundings", deadline_s=60)]
    return group, found

learners, of_learners = seen(4, [[place] for place in places])
engines, of_engines = seen(2, [places[:2], places[2:]])
try:
    SharedDevices(1, 1, 1.0)
    failed = ""
except DeadlineExceeded as error:
    failed = str(error)
learners.close()
engines.close()
release_all()
again = SharedDevices(1, 4, 30.0)
print(json.dumps([of_learners, of_engines, failed, len(again.devices)]))
"""


def test_learners_and_engines_of_one_rank_see_the_same_gpus():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLACED], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-2000:]
    learners, engines, failed, given_back = json.loads(run.stdout.splitlines()[-1])
    assert sorted(learners) == ["0", "1", "2", "3"]
    assert engines == [",".join(learners[:2]), ",".join(learners[2:])]
    assert "0 of 1 groups of 1 GPUs were free within 1 s; the cluster has 4 GPUs, 0 of them free" in failed
    assert given_back == 4


def test_learners_and_engines_must_stand_on_equally_many_gpus():
    execution = ExecutionConfig(device="cuda", placement="colocated", learners=4, engines=1, engine_tensor_parallel=2)
    with pytest.raises(BadInput, match=r"4 learners and 1 engines of 2 GPUs .*engines x engine_tensor_parallel"):
        shared_devices(execution)
