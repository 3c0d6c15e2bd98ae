"""What the simulator says of Ring-1T's own RLVR step. Only the batch and the longest answer are published (FACTS 3):
480 prompts x 8, 65,536 tokens. The rest is assumed, and stands here with its reason, so that it can be argued with.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from components.rl.scheduler import SchedulerPolicy
from components.rl.simulator import Cluster, StepTimes, simulate

PROMPTS, GROUP, LONGEST = 480, 8, 65_536
LONGEST_OVER_MEDIAN = 20.0
# 64 engines of 16 H100: 1 TB of fp8 weights and 280 GB for keys and values each. 1,024 GPUs in all.
ENGINES, GPUS_EACH = 64, 16
BANDWIDTH = GPUS_EACH * 3.35e12 * 0.6  # bytes per second, of which 60 % are reached
WEIGHTS, ALWAYS_READ = 1.0e12, 0.05  # bytes in fp8; attention, shared and dense parts that every token reads
EXPERTS, TOP_K = 256, 8
LATENCY_S = 80 * 2 * 25e-6  # two all-reduces in each of 80 layers
KV_TOKEN = 80 * 2 * 8 * 128 * 2  # bytes of keys and values of one token in bf16
MEAN_CONTEXT = 6_000
PLACES = int(280e9 / (KV_TOKEN * MEAN_CONTEXT))
ACTIVE = 51e9
FLOPS = ENGINES * GPUS_EACH * 989e12
TRAIN_MFU, PREFILL_MFU = 0.2, 0.3
EXCHANGE_S = 10.0  # "in seconds" (AState, arXiv 2510.18855)
PROMPT_TOKENS = 512
SLICE_S = 120.0
SEED = 5


def step_s(batch: int) -> float:
    """Seconds of one decoding step: latency, the experts that `batch` tokens touch, and their keys and values."""
    touched = ALWAYS_READ + (1 - ALWAYS_READ) * (1 - (1 - TOP_K / EXPERTS) ** batch)
    return LATENCY_S + touched * WEIGHTS / BANDWIDTH + batch * MEAN_CONTEXT * KV_TOKEN / BANDWIDTH


def cluster() -> Cluster:
    return Cluster(
        engines=ENGINES,
        places=PLACES,
        step_s=step_s,
        prefill_s=2 * ACTIVE / (FLOPS / ENGINES * PREFILL_MFU),
        prompt_tokens=PROMPT_TOKENS,
        train_s=8 * ACTIVE / (FLOPS * TRAIN_MFU),  # forward and backward, and one forward for the old log-probs
        fixed_s=EXCHANGE_S,
        contention=2.0,  # colocated
    )


def predict(steps: int = 20, tail: float = LONGEST_OVER_MEDIAN) -> Mapping[str, list[StepTimes]]:
    """Mode -> times of every step. tail: longest answer over the median one."""
    block = PROMPTS * GROUP
    z = np.array([NormalDist().inv_cdf((i + 0.5) / block) for i in range(block)])
    sigma = np.log(tail) / z[-1]
    values = np.maximum(LONGEST / tail * np.exp(sigma * z), 1).astype(int)
    orders = [np.random.default_rng([SEED, at]).permutation(block) for at in range(4 * steps)]

    def length(serial: int) -> int:
        return int(values[orders[serial // block][serial % block]])

    policies = {
        "synchronous": SchedulerPolicy(GROUP, PROMPTS),
        "c3po++": SchedulerPolicy(GROUP, 2 * PROMPTS, token_budget=int(values.sum()), max_staleness=8),
        "async": SchedulerPolicy(GROUP, PROMPTS, take_groups=PROMPTS, max_staleness=4, overdue="wait"),
    }
    return {mode: simulate(policy, cluster(), length, steps, SLICE_S) for mode, policy in policies.items()}
