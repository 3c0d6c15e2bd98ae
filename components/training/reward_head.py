"""A reward model: the policy's backbone with a scalar head read at the last token of a response.

Bradley-Terry on preference pairs (Christiano et al., arXiv 1706.03741; InstructGPT, arXiv 2203.02155). On disk:
`model/` is a Hugging Face directory of the backbone, `head.safetensors` holds `weight` [hidden] beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.artifacts.folder import Folder, Sent
from components.artifacts.stored import Stored
from components.failures import BadInput
from components.model.builder import LingModel, build_model
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

    def send_head(self, place: Folder) -> Sent | None:
        """Sends head.safetensors, of all ranks that have the head from the first."""
        from safetensors.torch import save

        here = self.model.place
        if not self.model.post_process or here.tensor or here.context or here.data:
            return None
        return place.send(HEAD_FILE, [save({"weight": self.head.detach()[0].float().cpu().contiguous()})])

    def rewards(self, batch: MicroBatch, hidden: Tensor, kept: Tensor | None) -> Tensor:
        """Rewards [sequences of the batch], float32, with gradient. hidden: of their last tokens, on the last stage."""
        return all_rows(self.model, batch, (hidden.float() @ self.head[0]).float(), kept)
