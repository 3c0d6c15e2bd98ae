"""Records become documents for training, and documents become the steps of a run.

The plan of a run is a pure function of lengths and seed, so a resumed run sees the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from components.data.schema import PretrainRecord, SftRecord
from components.failures import BadInput
from components.model.tokenizer import encode_prompt, encode_response, encode_text
from components.training.types import Sequence

# More records than this being too long for a row means that sequence_length is wrong, not the records.
MAX_DROPPED_FRACTION = 0.05


def response_sequence(prompt: list[int], response: list[int]) -> Sequence:
    """Prompt plus response; the loss counts the response's tokens only."""
    mask = np.zeros(len(prompt) + len(response), dtype=bool)
    mask[len(prompt) :] = True
    return Sequence(np.asarray([*prompt, *response], dtype=np.int64), mask)


def sft_sequences(
    records: Iterable[SftRecord], tokenizer: Any, sequence_length: int
) -> tuple[list[Sequence], list[str]]:
    """(documents, ids of the records left out because they do not fit a row). A cut would hide the answer.

    Raises:
        BadInput: no records, or too many do not fit.
    """
    documents, dropped = [], []
    for record in records:
        prompt, response = encode_prompt(tokenizer, record.prompt), encode_response(tokenizer, record.response)
        if len(prompt) + len(response) > sequence_length:
            dropped.append(record.id)
        else:
            documents.append(response_sequence(prompt, response))
    check_dropped(len(documents), dropped, sequence_length, "data/sft.jsonl")
    return documents, dropped


def pretrain_sequences(records: Iterable[PretrainRecord], tokenizer: Any, sequence_length: int) -> list[Sequence]:
    """Text plus EOS, cut into pieces of at most a row; every token but a piece's first counts.

    Raises:
        BadInput: no records.
    """
    documents = []
    for record in records:
        tokens = np.asarray([*encode_text(tokenizer, record.text), tokenizer.eos_token_id], dtype=np.int64)
        for start in range(0, len(tokens), sequence_length):
            piece = tokens[start : start + sequence_length]
            if len(piece) > 1:
                documents.append(Sequence(piece, np.arange(len(piece)) > 0))
    check_dropped(len(documents), [], sequence_length, "data/pretrain.jsonl")
    return documents


def check_dropped(kept: int, dropped: Many[str], sequence_length: int, where: str) -> None:
    """Raises BadInput when nothing is left, or more than MAX_DROPPED_FRACTION was too long."""
    if kept + len(dropped) == 0:
        raise BadInput("no records to train on", where=where, remedy="Check corpus.sources and the decontamination")
    if len(dropped) > MAX_DROPPED_FRACTION * (kept + len(dropped)):
        raise BadInput(
            f"{len(dropped)} of {kept + len(dropped)} records are longer than {sequence_length} tokens, "
            f"the first is record {dropped[0]}",
            where=where,
            remedy="Raise sequence_length (and model.max_position with it), or leave the long records out: max_tokens "
            "of their source under corpus.sources",
        )


def plan_steps(sizes: Many[int], budget: int, steps: int, seed: int) -> list[list[int]]:
    """Item indices of every step: shuffled passes over all items, as many as fit `budget` (at least one) per step.

    sizes: tokens of each item, or 1 each to count items.
    """
    generator = np.random.default_rng(seed)
    plan: list[list[int]] = []
    batch: list[int] = []
    used = 0
    while True:
        for index in generator.permutation(len(sizes)):
            size = int(sizes[index])
            if batch and used + size > budget:
                plan.append(batch)
                if len(plan) == steps:
                    return plan
                batch, used = [], 0
            batch.append(int(index))
            used += size
