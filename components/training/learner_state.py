"""What one rank of training holds: its part of the model, the optimiser and the reward head. Made, loaded, sent to the
engines, written, offloaded, saved and restored here; what is computed with them is in components.training.learner.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.artifacts.chunks import Traffic
from components.artifacts.folder import Folder, Sent
from components.artifacts.stored import Stored
from components.cluster.memory import resident_bytes
from components.failures import BadInput, InfrastructureError, IntegrityError
from components.model.architecture import check_architecture
from components.model.builder import build_model, expert_biases, routers
from components.model.hf import load_hf_state, read_hf_directory
from components.model.hf_sent import WeightFile, send_weights
from components.model.hf_stored import load_stored, stored_spec
from components.model.initial import initialise
from components.model.layout import Layout
from components.model.precision import FP8_ROWS, check_shapes
from components.model.shards import joined, owned, pieces, served
from components.model.spec import LingSpec, spec_for
from components.model.wire import ShardLayout, pack_pieces
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training import checkpoint, rng
from components.training.blocks import Index, Written, read_index
from components.training.device_transfer import open_sender
from components.training.optimiser import FlatAdamW
from components.training.parallel import Ranks
from components.training.reward_head import RewardModel

COLLECTIVE_TIMEOUT_S = 600.0


class LearnerState:
    """One rank.

    Args:
        rank, world: its number, and how many there are.
        model: the recipe's model section.
        execution: threads, device, and how the model is divided over the ranks.
        seed: of the weights `initialise` draws and of torch's generator.

    Raises:
        BadInput: the model cannot be divided so.
    """

    def __init__(self, rank: int, world: int, model: ModelConfig, execution: ExecutionConfig, seed: int) -> None:
        self.rank, self.execution, self.seed = rank, execution, seed
        self.layout = layout = replace(Layout.of(execution), world=world)
        self.device = "cuda" if execution.device == "cuda" else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(execution.threads)
        self.spec: LingSpec = spec_for(model)
        layout.check(self.spec)
        execution.check_kernels()
        check_shapes(self.spec, layout, execution.learner_dtype)
        rows = FP8_ROWS if execution.learner_dtype == "fp8" else 1
        self.ranks = Ranks(layout, rank, self.device, execution.distributed_optimiser, rows)
        torch.manual_seed(seed)
        self.model = None
        self.optimiser: FlatAdamW | None = None
        self.expert_bias_rate = self.mtp_loss_weight = 0.0
        self.reward: RewardModel | None = None
        self._trains_reward = False
        self._buffer: np.ndarray | None = None
        self._sender: Any = None
        self._fetched: tuple[checkpoint.Fetched, int] | None = None

    # ---- connection and weights

    def connect(self, master_address: str, port: int) -> None:
        """Joins the other ranks over gloo (CPU) or NCCL (CUDA). Rank 0 must be reachable at the address.

        Raises:
            InfrastructureError: the ranks did not find each other in time.
        """
        if self.layout.world == 1 or torch.distributed.is_initialized():
            return
        try:
            torch.distributed.init_process_group(
                "gloo" if self.device == "cpu" else "nccl",
                init_method=f"tcp://{master_address}:{port}",
                rank=self.rank,
                world_size=self.layout.world,
                timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            )
        except (RuntimeError, torch.distributed.DistError) as error:
            raise InfrastructureError(f"learner {self.rank} of {self.layout.world} cannot connect: {error}") from error

    def initialise(self, seed: int | None = None) -> None:
        """Draws fresh weights; the same on every rank. Forgets optimiser and reward head."""
        self._reset()
        initialise(self.model, self.spec, self.seed if seed is None else seed)

    def load_hf(self, source: str | Path | Stored) -> Traffic:
        """Loads a Hugging Face directory, of a stored one what this rank needs. Forgets optimiser and reward head.
        Returns what was read from the store.

        Raises:
            BadInput: another architecture (names the fields), or tensors missing or of another shape.
        """
        if isinstance(source, Stored):
            check_architecture(stored_spec(source), self.spec, str(source))
            self._reset()
            return load_stored(self.model, self.spec, source)
        spec, tensors = read_hf_directory(Path(source))
        check_architecture(spec, self.spec, str(source))
        self._reset()
        load_hf_state(self.model, self.spec, tensors, str(source))
        return Traffic()

    def load_reward(self, stored: Stored) -> None:
        """Loads this rank's part of a reward model beside the policy, for `score`."""
        self.reward = RewardModel.load(stored, self.device, self.layout)
        self._trains_reward = False

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight of an undivided model that engines have, under its HF name, float32 copies."""
        found = joined(served(pieces(self._built(), self.spec), self.spec))
        return {name: tensor.float().cpu().numpy().copy() for name, tensor in found}

    def shard(self) -> tuple[ShardLayout, np.ndarray]:
        """(layout, buffer) of the weights this rank sends to engines: over all ranks every block once. No collective.

        The buffer is written again by the next call.
        """
        own = owned(served(pieces(self._built(), self.spec), self.spec))
        layout, self._buffer = pack_pieces(own, self._buffer)
        return layout, self._buffer

    def send(self, address: str, port: int, engine_workers: int, client: Any) -> None:
        """Sends the weights to engines on GPUs (components.training.device_transfer); a collective of all learners.

        address, port: for the first call with these engines, where the sender and they meet.
        """
        if self._sender is None or self._sender[0] != client.names:
            backend = "ipc" if self.execution.shares_gpus else "nccl"
            sender = open_sender(backend, self._built(), self.rank, address, port, engine_workers, client)
            self._sender = (client.names, sender)
        self._sender[1].send_weights()

    def send_weights(self, place: Folder, dtype: str = "float32") -> list[WeightFile]:
        """Sends this rank's files of a Hugging Face directory and tells what they are; a collective."""
        return send_weights(place, self._built(), self.spec, dtype)

    def send_reward(self, place: Folder) -> tuple[list[WeightFile], Sent | None]:
        """Sends this rank's files of the backbone to model/ and, from the rank that has it, head.safetensors; a
        collective."""
        files = send_weights(place.below("model"), self.reward.model, self.spec, "float32")
        return files, self.reward.send_head(place)

    # ---- optimiser

    def configure(
        self,
        optimiser: OptimiserConfig,
        total_steps: int,
        expert_bias_rate: float,
        reward_head: bool = False,
        mtp_loss_weight: float = 0.0,
    ) -> None:
        """Starts a new optimisation from the present weights: moments and step count at zero.

        expert_bias_rate: 0 keeps the router bias fixed, as RL does.
        reward_head: train a Bradley-Terry reward model: adds a scalar head, drawn at zero.
        mtp_loss_weight: of the loss on the token after the next in `train_tokens`; 0 keeps the MTP layer as it is, as
            RL does (verl, too, trains it there on request only).

        Raises:
            BadInput: a weight for a layer that the model does not have.
        """
        model = self._built()
        if mtp_loss_weight and not model.mtp_process:
            raise BadInput(f"{self.spec.name} has no MTP layer", where="mtp_loss_weight", remedy="Leave it out")
        self.expert_bias_rate, self.mtp_loss_weight = expert_bias_rate, mtp_loss_weight
        self._trains_reward = reward_head
        # Weight decay must not touch what takes no part.
        idle = ("output_layer.",) * reward_head + ("mtp.",) * (not mtp_loss_weight)
        trained = [p for name, p in model.named_parameters() if not name.startswith(idle)]
        if reward_head:
            self.reward = RewardModel(model, self.spec)
            trained += [self.reward.head] if model.post_process else []
        self.optimiser = FlatAdamW(trained, optimiser, total_steps, self.ranks.kind, self.ranks.share)
        for router in routers(model):
            router.local_tokens_per_expert.zero_()

    # ---- memory

    def offload(self) -> int:
        """Gives back what the next step writes anew: gradients, and the buffer weights were sent from; on a GPU also
        moves weights and moments to the host. Returns the bytes this process (on a GPU: its device) has less."""
        before = self._memory()
        self._buffer = None
        if self.optimiser is not None:
            self.optimiser.offload()
        return max(before - self._memory(), 0)

    def onload(self) -> None:
        """Takes back what `offload` moved."""
        if self.optimiser is not None:
            self.optimiser.onload()

    def _memory(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else resident_bytes()

    # ---- resume

    def save_resume(self, place: Folder) -> Written:
        """Sends this rank's share of everything the next step depends on, and tells what it was. Random states are
        each rank's own (`rng_state`)."""
        state = {
            "optimiser": self.optimiser.state(),
            "expert_bias_rate": self.expert_bias_rate,
            "trains_reward": self._trains_reward,
            "mtp_loss_weight": self.mtp_loss_weight,
            "spec": self.spec.model_dump_json(),
        }
        return checkpoint.save(place, self.rank, self.model, self.optimiser, self._trained_head(), state)

    def load_resume(self, place: Folder) -> checkpoint.Fetched:
        """`fetch_resume`, and then `finish_resume`. Raises IntegrityError for what is damaged."""
        damage, _ = self.fetch_resume(place)
        if damage:
            raise IntegrityError(damage)
        fetched, _ = self._fetched
        self.finish_resume(True)
        return fetched

    def fetch_resume(self, place: Folder) -> tuple[str, Traffic]:
        """Reads and proves what this rank needs of `save_resume` of all ranks, also of another layout, and starts an
        optimisation of the saved kind; no weight is touched. Returns what is damaged, empty when nothing is (an
        exception of one rank alone would leave its peers waiting for it), and what was read.

        Raises:
            BadInput: the state is of another architecture, incomplete, or of another ringflow.
        """
        self._fetched = None
        try:
            index = read_index(place)
            self._expect(index, str(place))
            fetched = checkpoint.fetch(place, index, self.model, self.optimiser, self._trained_head())
        except IntegrityError as error:
            return str(error), Traffic()
        self._fetched = fetched, index.state["optimiser"]["step"]
        return "", fetched.traffic

    def finish_resume(self, take: bool) -> None:
        """Takes over what was fetched, or forgets it. Under the layout that saved it, the next step is bitwise the one
        that would have followed. Collective."""
        (fetched, step), self._fetched = self._fetched or (None, 0), None
        if take:
            checkpoint.apply(fetched, self.optimiser)
            self.optimiser.step_count = step

    def _expect(self, index: Index, where: str) -> None:
        state = index.state
        check_architecture(LingSpec.model_validate_json(state["spec"]), self.spec, where)
        if self.model is None:
            self._reset()
        optimiser = state["optimiser"]
        self.configure(
            OptimiserConfig.model_validate(optimiser["config"]),
            optimiser["total_steps"],
            state["expert_bias_rate"],
            state["trains_reward"],
            state.get("mtp_loss_weight", 0.0),
        )

    def rng_state(self) -> dict[str, np.ndarray]:
        """This process's random states (components.training.rng)."""
        return rng.capture()

    def set_rng_state(self, state: dict[str, np.ndarray]) -> None:
        rng.restore(state)

    def _trained_head(self) -> Tensor | None:
        return self.reward.head if self._trains_reward else None

    # ---- inside

    def _reset(self) -> None:
        self.optimiser, self._trains_reward, self.reward = None, False, None
        if self.model is None:
            execution = self.execution
            self.model = build_model(
                self.spec,
                self.device,
                getattr(torch, execution.weight_dtype),
                layout=self.layout,
                recompute=execution.recompute,
                fused=execution.fused,
                fp8=execution.learner_dtype == "fp8",
            )
            self.model.logit_rows = execution.logit_rows
        for parameter in self.model.parameters():
            parameter.grad = None
        for bias in expert_biases(self.model):
            bias.zero_()

    def _built(self):
        if self.model is None:
            raise BadInput("the learner has no weights", remedy="Call initialise or load_hf first")
        return self.model
