"""Learner ranks as processes that share nothing but sockets: what a LearnerGroup needs of components.cluster.workers.

Each has an empty directory of its own for everything, and the keys of the storage in its environment, as a Ray node
has. It counts what it reads. Ray's own actors are killed with their node in tests/faults/test_team.py.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from components.artifacts import chunks, folder, s3, stored
from components.failures import DeadlineExceeded, InfrastructureError, RingflowError
from components.model.shards import owned, pieces
from components.training import blocks
from components.training.checkpoint import MOMENTS
from components.training.learner import Learner

START_S = 300
PART_BYTES = 5 << 20  # the least that S3 takes, so that a small model's file has several


class Rank(Learner):
    """A learner that says what it holds."""

    read_bytes = 0

    def train_once(self) -> float:
        from tests.components.training.test_layouts import OPTIMISER, _share

        self.initialise(3)
        self.configure(OPTIMISER, 20, 1e-3)
        return self.train_tokens(_share(self.layout, self.rank), 128)["loss"]

    def train_more(self) -> float:
        from tests.components.training.test_layouts import _share

        return self.train_tokens(_share(self.layout, self.rank), 128)["loss"]

    def held(self, mine: bool) -> list[tuple[str, str, tuple, tuple]]:
        """(moment, name, starts, sizes) of what this rank has, or of what it alone sends: by the layout, not by what
        was saved."""
        found = []
        for moment in MOMENTS:

            def values(tensor: torch.Tensor, moment: str = moment) -> torch.Tensor | None:
                kept = self.optimiser.view(moment, tensor)
                return tensor.detach() if kept is None and moment == "master" else kept

            described = pieces(self.model, self.spec, values)
            found += [(moment, p.name, p.starts, p.sizes) for p in (owned(described) if mine else described)]
        return found

    def values_held(self, mine: bool) -> int:
        return sum(math.prod(sizes) for *_, sizes in self.held(mine))

    def take_count(self) -> int:
        """Bytes of parts read since the last call."""
        count, Rank.read_bytes = Rank.read_bytes, 0
        return count

    def set_sizes(self, chunk: int, gap: int) -> None:
        chunks.CHUNK_BYTES = blocks.CHUNK_BYTES = stored.CHUNK_BYTES = chunk
        chunks.GAP_BYTES = gap

    def die_in_upload(self, after: str = "upload_part") -> None:
        """From now on this process ends with SIGKILL once a part of a file, or a whole one, is stored."""
        real = s3.write_parts

        def write(call: Any, parts: Any) -> int:
            def deadly(name: str, **more: Any) -> dict[str, Any]:
                answer = call(name, **more)
                if name == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            return real(deadly, parts)

        s3.write_parts = write


def _body(pipe: Connection, target: str, arguments: tuple, private: str, keys: Mapping[str, str]) -> None:
    os.chdir(private)
    os.environ.update(keys, TMPDIR=private)
    tempfile.tempdir = None
    torch.set_num_threads(1)
    folder.PART_BYTES = PART_BYTES
    read = folder.Folder.read_part

    def counted(self: folder.Folder, *asked: Any) -> bytes:
        data = read(self, *asked)
        Rank.read_bytes += len(data)
        return data

    folder.Folder.read_part = counted
    module, _, name = target.partition(":")
    rank = getattr(importlib.import_module(module), name)(*arguments)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(rank, method)(*given)))
        except RingflowError as error:
            pipe.send((False, error))
        except BaseException:
            pipe.send((False, RuntimeError(traceback.format_exc())))


class Processes:
    """In the place of WorkerGroup. keys, private: of every rank; set before use."""

    keys: Mapping[str, str] = {}
    private: Path
    made = 0

    def __init__(self, target: str, world: int, args_per_rank: Sequence[tuple], **options: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.components.training.ranks"])
        self.world, self._pipes, self._ranks = world, [], []
        for arguments in args_per_rank:
            Processes.made += 1
            place = self.private / f"host-{Processes.made}"
            place.mkdir()
            ours, theirs = context.Pipe()
            target = "tests.components.training.ranks:Rank"
            rank = context.Process(target=_body, args=(theirs, target, arguments, str(place), self.keys), daemon=True)
            rank.start()
            theirs.close()
            self._pipes.append(ours)
            self._ranks.append(rank)

    def ready(self) -> None:
        """`call` waits."""

    def call(self, method: str, *arguments: Any, deadline_s: float) -> list[Any]:
        return self.call_each(method, [arguments] * self.world, deadline_s)

    def call_one(self, rank: int, method: str, *arguments: Any, deadline_s: float) -> Any:
        self._pipes[rank].send((method, arguments))
        return self._answer(rank, method, deadline_s)

    def call_each(self, method: str, arguments: Sequence[tuple], deadline_s: float) -> list[Any]:
        for pipe, given in zip(self._pipes, arguments, strict=True):
            pipe.send((method, given))
        return [self._answer(rank, method, deadline_s) for rank in range(self.world)]

    def _answer(self, rank: int, method: str, deadline_s: float) -> Any:
        pipe = self._pipes[rank]
        try:
            if not pipe.poll(deadline_s):
                raise DeadlineExceeded(f"rank {rank} did not answer {method}")
            fine, answer = pipe.recv()
        except EOFError as error:
            raise InfrastructureError(f"rank {rank} died during {method}") from error
        if not fine:
            raise answer
        return answer

    def rendezvous(self, deadline_s: float) -> tuple[str, int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()

    def alive(self) -> bool:
        return all(rank.is_alive() for rank in self._ranks)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for rank in self._ranks:
            rank.kill()
            rank.join(10)
