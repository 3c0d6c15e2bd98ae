"""A reward model: the policy's backbone with a scalar head read at the last token of a response.

Bradley-Terry on preference pairs (Christiano et al., arXiv 1706.03741; InstructGPT, arXiv 2203.02155). On disk:
`model/` is a Hugging Face directory of the backbone, `head.safetensors` holds `weight` [hidden] beside it.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.failures import BadInput
from components.model.builder import LingModel, build_model
from components.model.hf import hf_state, load_hf_state, read_hf_directory, write_hf_directory
from components.model.spec import LingSpec

HEAD_FILE = "head.safetensors"


class RewardModel:
    """Backbone and head. head: [1, hidden]; zero at the start, so that the first margin is 0 and the loss log 2."""

    def __init__(self, model: LingModel, spec: LingSpec) -> None:
        self.model, self.spec = model, spec
        self.head = nn.Parameter(torch.zeros(1, spec.hidden_size, device=next(model.parameters()).device))

    @classmethod
    def load(cls, directory: Path, device: str = "cpu") -> RewardModel:
        """Reads `directory`/model and `directory`/head.safetensors.

        Raises:
            BadInput: a file is missing or the head has another width.
        """
        from safetensors.torch import load_file

        path = directory / HEAD_FILE
        if not path.is_file():
            raise BadInput("the reward model has no head", where=str(path))
        spec, tensors = read_hf_directory(directory / "model")
        model = build_model(spec, device)
        load_hf_state(model, spec, tensors, str(directory / "model"))
        reward = cls(model, spec)
        weight = load_file(str(path))["weight"]
        if tuple(weight.shape) != (spec.hidden_size,):
            raise BadInput(f"the head has shape {tuple(weight.shape)}, not ({spec.hidden_size},)", where=str(path))
        with torch.no_grad():
            reward.head[0].copy_(weight)
        return reward

    def save(self, directory: Path, tokenizer: Any) -> None:
        from safetensors.torch import save_file

        write_hf_directory(directory / "model", self.spec, hf_state(self.model, self.spec), tokenizer)
        save_file({"weight": self.head.detach()[0].float().cpu().contiguous()}, str(directory / HEAD_FILE))

    def forward(self, sequences: Many[np.ndarray]) -> Tensor:
        """Rewards [sequences], float32, with gradient. sequences: token ids, prompt plus response."""
        lengths = [len(tokens) for tokens in sequences]
        device = self.head.device
        stream = torch.as_tensor(np.concatenate([np.asarray(tokens, np.int64) for tokens in sequences]), device=device)
        last = torch.as_tensor(np.cumsum(lengths) - 1, device=device)
        hidden = self.model.stream_hidden(stream, lengths, last).float()
        return (hidden @ self.head[0]).float()

    @torch.no_grad()
    def score(self, sequences: Many[np.ndarray], tokens_per_batch: int = 2048) -> np.ndarray:
        """Rewards [sequences], float32, in order; computed in batches of about `tokens_per_batch` tokens."""
        scores = np.empty(len(sequences), dtype=np.float32)
        order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))
        while order:
            used, batch = 0, []
            while order and (not batch or used + len(sequences[order[0]]) <= tokens_per_batch):
                used += len(sequences[order[0]])
                batch.append(order.pop(0))
            scores[batch] = self.forward([sequences[index] for index in batch]).cpu().numpy()
        return scores
