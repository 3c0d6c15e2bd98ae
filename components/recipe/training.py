"""Recipe sections for the stages `base`, `sft` and `reward-model`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.recipe.base import Later, StrictModel

MTP_LOSS_WEIGHT = 0.1  # Ling 2.0's pre-training (Ling-V2, --mtp-loss-scaling-factor)
MTP_LOSS = "Of the loss on the token after the next, where the model has a layer for it; 0.1 when absent, as Ling 2.0"


class OptimiserConfig(StrictModel):
    """AdamW with warm-up and a schedule. Defaults are the RL values of the Ring-1T report (FACTS: section 3)."""

    lr: float = Field(gt=0)
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    eps: float = 1e-8
    clip_grad_norm: float = Field(default=1.0, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    min_lr_fraction: float = Field(default=0.0, ge=0, le=1)


class PretrainConfig(StrictModel):
    """`base` for a model trained from scratch."""

    kind: Literal["pretrain"] = "pretrain"
    optimiser: OptimiserConfig
    steps: int = Field(ge=1)
    tokens_per_step: int = Field(ge=64)
    sequence_length: int = Field(ge=16)
    expert_bias_rate: float = Field(default=1e-3, ge=0, description="Router bias update rate")
    mtp_loss_weight: float | None = Later(ge=0, description=MTP_LOSS)
    checkpoint_every: int = Field(default=100, ge=1)


class ImportConfig(StrictModel):
    """`base` from an existing Hugging Face BailingMoeV2 checkpoint directory."""

    kind: Literal["import"] = "import"
    uri: str = Field(
        description="file://, s3:// or a plain path of a directory with config.json and safetensors; or a registered "
        "model, models:/NAME@released"
    )


class SftOptimiser(OptimiserConfig):
    """The published values of Long-CoT SFT; beta2 is ours."""

    lr: float = Field(default=2e-4, gt=0)
    weight_decay: float = 0.1
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: int = Field(default=30, ge=0)


class SftConfig(StrictModel):
    """Long-CoT SFT. Published: lr 2e-4 cosine, 30 warm-up steps, weight decay 0.1, 64k packing, 3 epochs."""

    optimiser: SftOptimiser = SftOptimiser()
    steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps; as many as `epochs` ask for when absent"
    )
    epochs: float = Field(default=3.0, gt=0, description="Passes over the data, where `steps` is absent")
    tokens_per_step: int | None = Field(
        default=None, ge=64, description="Tokens of one optimiser step over all data-parallel ranks; 8 rows when absent"
    )
    sequence_length: int | None = Field(
        default=None,
        ge=16,
        description="Length of a packed row, no attention across documents; the context when absent",
    )
    expert_bias_rate: float = Field(default=1e-3, ge=0)
    mtp_loss_weight: float | None = Later(ge=0, description=MTP_LOSS)
    checkpoints: int = Field(default=4, ge=1, description="Candidates kept, evenly spaced, to choose from")
    choose: Literal["entropy", "loss"] = Field(
        default="entropy",
        description="entropy: the interval below, which RL needs. loss: the lowest held-out loss; default without RL",
    )
    entropy_low: float = Field(default=0.3, description="RL starts from a checkpoint with this mean token entropy")
    entropy_high: float = 0.5
    checkpoint_every: int = Field(default=100, ge=1, description="Steps between resume points")


class RewardModelConfig(StrictModel):
    """Bradley-Terry reward model on the policy's architecture with a scalar head."""

    optimiser: OptimiserConfig
    steps: int = Field(ge=1)
    pairs_per_step: int = Field(ge=1)
    sequence_length: int = Field(ge=16)
    checkpoint_every: int = Field(default=50, ge=1)
    min_accuracy: float = Field(default=0.6, ge=0, le=1, description="Held-out pair accuracy below this stops the run")
