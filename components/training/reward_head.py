"""A reward model: the policy's backbone with a scalar head read at the last token of a response.

Bradley-Terry on preference pairs (Christiano et al., arXiv 1706.03741; InstructGPT, arXiv 2203.02155). On disk:
`model/` is a Hugging Face directory of the backbone, `head.safetensors` holds `weight` [hidden] beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.artifacts.stored import Stored
from components.failures import BadInput
from components.model.builder import LingModel, build_model
from components.model.hf import hf_state, write_divided, write_hf_directory
from components.model.hf_stored import load_stored, read_tensor, stored_spec
from components.model.layout import UNDIVIDED, Layout
from components.model.spec import LingSpec
from components.training.batches import MicroBatch
from components.training.parallel import all_rows

HEAD_FILE = "head.safetensors"


class RewardModel:
    """Backbone and head. head: [1, hidden]; zero at the start, so that the first margin is 0 and the loss log 2."""

    def __init__(self, model: LingModel, spec: LingSpec) -> None:
        self.model, self.spec = model, spec
        self.head = nn.Parameter(torch.zeros(1, spec.hidden_size, device=next(model.parameters()).device))
        self.head.reward_head = True

    @classmethod
    def load(cls, stored: Stored, device: str = "cpu", layout: Layout = UNDIVIDED) -> RewardModel:
        """Reads model/, of a divided model this rank's part, and head.safetensors.

        Raises:
            BadInput: a file is missing or the head has another width.
        """
        weight = read_tensor(stored, HEAD_FILE, "weight")
        backbone = stored.below("model")
        spec = stored_spec(backbone)
        if tuple(weight.shape) != (spec.hidden_size,):
            where = f"{stored}/{HEAD_FILE}"
            raise BadInput(f"the head has shape {tuple(weight.shape)}, not ({spec.hidden_size},)", where=where)
        model = build_model(spec, device, layout=layout)
        load_stored(model, spec, backbone)
        reward = cls(model, spec)
        with torch.no_grad():
            reward.head[0].copy_(weight)
        return reward

    def save(self, directory: Path, tokenizer: Any) -> None:
        """Writes both; of a divided model all ranks together, a collective."""
        from safetensors.torch import save_file

        layout, place = self.model.layout, self.model.place
        if layout.divided:
            write_divided(directory / "model", self.model, self.spec, tokenizer, "float32")
        else:
            write_hf_directory(directory / "model", self.spec, hf_state(self.model, self.spec), tokenizer)
        if self.model.post_process and place.tensor == place.context == place.data == 0:
            save_file({"weight": self.head.detach()[0].float().cpu().contiguous()}, str(directory / HEAD_FILE))

    def rewards(self, batch: MicroBatch, hidden: Tensor, kept: Tensor | None) -> Tensor:
        """Rewards [sequences of the batch], float32, with gradient. hidden: of their last tokens, on the last stage."""
        return all_rows(self.model, batch, (hidden.float() @ self.head[0]).float(), kept)
