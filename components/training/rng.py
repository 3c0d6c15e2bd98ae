"""The random number generators of a process as plain arrays: part of a resume point, one entry per rank.

Rollouts draw from seeds of their own (components.rl.collect), so today only initial weights come from these; whatever
draws from them tomorrow (dropout, a sampler) goes on after a resume as if nothing had happened.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

FILE = "rng.npz"


def capture() -> dict[str, np.ndarray]:
    """States of torch (CPU, and this process's CUDA device), of numpy's global generator and of Python's."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state().numpy(),
        "python": np.array([version, *words], dtype=np.uint64),
        "python_gauss": np.array([np.nan if gauss is None else gauss]),
        "numpy": np.asarray(keys),
        "numpy_rest": np.array([position, has_gauss, cached], dtype=np.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().numpy()
    return state


def restore(state: Mapping[str, np.ndarray]) -> None:
    """Puts this process's generators into a captured state."""
    torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
    version, *words = (int(word) for word in state["python"])
    gauss = float(state["python_gauss"][0])
    random.setstate((version, tuple(words), None if np.isnan(gauss) else gauss))
    position, has_gauss, cached = state["numpy_rest"]
    np.random.set_state(("MT19937", np.array(state["numpy"]), int(position), int(has_gauss), float(cached)))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(np.array(state["cuda"])))


def save(directory: Path, states: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Writes the states of all ranks, in rank order."""
    arrays = {f"{rank}/{name}": array for rank, state in enumerate(states) for name, array in state.items()}
    np.savez(Path(directory) / FILE, **arrays)


def load(directory: Path, world: int) -> list[dict[str, np.ndarray]]:
    """A state for each of `world` ranks; with another number of ranks than saved, the saved ones in turn.

    Empty for a resume point of an older version.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return []
    saved: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            rank, _, name = key.partition("/")
            saved.setdefault(int(rank), {})[name] = stored[key]
    return [saved[rank % len(saved)] for rank in range(world)]
