"""Learners and engines a stage borrows: kept warm between the stages of one process, found again by what they are.

The key holds whatever decides if a running group fits, and nothing else; a group is handed out with whatever weights the
last stage left in it, so a stage loads its own first. Take engines before learners (components.cluster.warm).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig

if TYPE_CHECKING:
    from components.rollout.group import EngineGroup
    from components.training.group import LearnerGroup

# A stage may wait for another one of the same process to finish with the group.
BORROW_DEADLINE_S = 3600.0


def engines_key(model: ModelConfig, dtype: str, execution: ExecutionConfig) -> Hashable:
    counts = (execution.engines, execution.max_num_seqs, execution.threads, execution.device)
    return "engines", model.model_dump_json(), dtype, counts


def learners_key(model: ModelConfig, execution: ExecutionConfig) -> Hashable:
    layout = (execution.tensor_parallel, execution.expert_parallel, execution.pipeline_parallel)
    return "learners", model.model_dump_json(), (execution.learners, execution.threads, execution.device), layout


def make_engines(model: ModelConfig, dtype: str, execution: ExecutionConfig) -> EngineGroup:
    """Connects to Ray and starts engines of this shape; does not wait for them."""
    from components.cluster.connect import connect
    from components.model.hf_config import config_json
    from components.model.spec import spec_for
    from components.model.tokenizer import load_tokenizer
    from components.rollout.group import EngineGroup

    connect(execution)
    spec = spec_for(model)
    config = config_json(spec, load_tokenizer(model.tokenizer), dtype)
    return EngineGroup(config, dtype, spec.max_position_embeddings, execution)


def make_learners(model: ModelConfig, execution: ExecutionConfig, seed: int) -> LearnerGroup:
    """Connects to Ray and starts learners of this shape; does not wait for them."""
    from components.cluster.connect import connect
    from components.training.group import LearnerGroup

    connect(execution)
    return LearnerGroup(model, execution, seed)


@contextmanager
def borrow_engines(model: ModelConfig, dtype: str, execution: ExecutionConfig) -> Iterator[EngineGroup]:
    """Engines of this architecture and dtype, for this stage alone until the block ends."""
    from components.cluster.warm import borrow

    key = engines_key(model, dtype, execution)
    with borrow(key, lambda: make_engines(model, dtype, execution), BORROW_DEADLINE_S) as group:
        yield group


@contextmanager
def borrow_learners(model: ModelConfig, execution: ExecutionConfig, seed: int) -> Iterator[LearnerGroup]:
    """Learners of this architecture, for this stage alone until the block ends."""
    from components.cluster.warm import borrow

    key = learners_key(model, execution)
    with borrow(key, lambda: make_learners(model, execution, seed), BORROW_DEADLINE_S) as group:
        yield group
