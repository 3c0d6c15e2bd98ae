"""Everything the rewards of a run saw and said, in its artifact: `rollouts/`.

    rewards-NNNNNN.jsonl.gz   every response of the step with its whole reward
    step-NNNNNN.jsonl         the first groups of some steps in full, with the prompt, to be read (and put into MLflow)
    alarms.jsonl              what the reward monitors found
    judge.jsonl               every question to a judge and its reply (components.rewards.judge)

What takes real time is left out, so that two runs of one seed write the same bytes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.rewards.types import Reward
from components.rl.batch import Group, Prompt
from components.rollout.types import Sample

SAMPLED_GROUPS = 4
ALARMS = "alarms.jsonl"

Decode = Callable[[list[int]], str]


def keep_rewards(
    directory: Path, step: int, groups: Sequence[Group], prompts: Sequence[Prompt], decode: Decode
) -> None:
    """Writes every response of the step and its reward."""
    rows = (
        {"prompt_id": prompts[group.prompt].id, "member": member} | _judged(sample, reward, decode)
        for group in groups
        for member, (sample, reward) in enumerate(zip(group.samples, group.rewards, strict=True))
    )
    text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
    (directory / f"rewards-{step:06d}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 6, mtime=0))


def sample_groups(
    directory: Path, step: int, groups: Sequence[Group], prompts: Sequence[Prompt], decode: Decode
) -> Path:
    """Writes the first groups in full: what was asked, answered and judged."""
    path = directory / f"step-{step:06d}.jsonl"
    with path.open("w") as stream:
        for group in groups[:SAMPLED_GROUPS]:
            prompt = prompts[group.prompt]
            for sample, reward in zip(group.samples, group.rewards, strict=True):
                asked = {"step": step, "prompt_id": prompt.id, "prompt": prompt.text}
                stream.write(json.dumps(asked | _judged(sample, reward, decode), default=str) + "\n")
    return path


def note_alarms(directory: Path, step: int, alarms: Sequence[str]) -> None:
    if alarms:
        with (directory / ALARMS).open("a") as stream:
            stream.writelines(json.dumps({"step": step, "alarm": alarm}) + "\n" for alarm in alarms)


def count_alarms(directory: Path) -> int:
    path = directory / ALARMS
    return len(path.read_text().splitlines()) if path.exists() else 0


def _judged(sample: Sample, reward: Reward, decode: Decode) -> dict[str, Any]:
    return {
        "response": decode(sample.tokens),
        "finish": sample.finish,
        "tokens": len(sample.tokens),
        "version": sample.version,
        "reward": asdict(reward) | {"seconds": None},
    }
