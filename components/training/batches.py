"""Micro-batches: packed streams of documents with the positions that count, and what a policy loss sees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.failures import BadInput
from components.training.types import PolicySequence, PolicyTokens, Sequence

# Filling tokens are documents of at most this length: attention's cost grows with the square.
FILL_LENGTH = 64


@dataclass(frozen=True)
class MicroBatch:
    """A stream of documents.

    documents: indices into the sequences given. tokens: [tokens]. lengths: per document, filling ones included.
    positions: stream positions whose next token counts, documents in order. targets: [n] those next tokens.
    counts: targets of each document. padding: tokens at the end that belong to no document.
    experts: [tokens, sparse layers, topk] int64 experts to route to; None: the router chooses.
    ahead: the last so many positions and targets are the MTP layer's: the token after the next of a position.
    """

    documents: list[int]
    tokens: Tensor
    lengths: list[int]
    positions: Tensor
    targets: Tensor
    counts: list[int]
    padding: int = 0
    experts: Tensor | None = None
    ahead: int = 0

    def filled(self, tokens: int) -> MicroBatch:
        """This stream brought to `tokens` tokens; nothing of it changes, and the filling counts nowhere."""
        missing = tokens - len(self.tokens)
        if not missing:
            return self
        whole, rest = divmod(missing, FILL_LENGTH)
        fill = self.tokens.new_zeros(missing)
        lengths = [*self.lengths, *[FILL_LENGTH] * whole, *([rest] if rest else [])]
        experts = self.experts
        if experts is not None:
            experts = torch.cat([experts, _any_experts(experts, missing)])
        return replace(
            self,
            tokens=torch.cat([self.tokens, fill]),
            lengths=lengths,
            padding=self.padding + missing,
            experts=experts,
        )


def nothing(device: str) -> MicroBatch:
    """A stream without documents, for a rank that has run out of them before its peers."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return MicroBatch([], none, [], none, none, [])


def micro_batch(sequences: Many[Sequence], documents: list[int], device: str, mtp: bool = False) -> MicroBatch:
    """The chosen documents as one stream, with the tokens of their loss masks as targets; mtp: those that have two
    tokens before them in their document once more, of the MTP layer.

    Raises:
        BadInput: the first token of a document is to be predicted.
    """
    chosen = [sequences[index] for index in documents]
    tokens = np.concatenate([np.asarray(sequence.tokens, dtype=np.int64) for sequence in chosen])
    mask = np.concatenate([np.asarray(sequence.loss_mask, dtype=bool) for sequence in chosen])
    if any(len(sequence.loss_mask) and sequence.loss_mask[0] for sequence in chosen):
        raise BadInput("the first token of a document has nothing before it to be predicted from", where="loss_mask[0]")
    targets = np.flatnonzero(mask)
    positions, ahead = targets - 1, 0
    if mtp:
        starts = np.cumsum([0, *[len(sequence.tokens) for sequence in chosen[:-1]]])
        second = np.setdiff1d(targets, starts + 1, assume_unique=True)
        positions, targets = np.concatenate([positions, second - 2]), np.concatenate([targets, second])
        ahead = len(second)
    return MicroBatch(
        documents=documents,
        tokens=torch.as_tensor(tokens, device=device),
        lengths=[len(sequence.tokens) for sequence in chosen],
        positions=torch.as_tensor(positions, device=device),
        targets=torch.as_tensor(tokens[targets], device=device),
        counts=[int(np.count_nonzero(sequence.loss_mask)) for sequence in chosen],
        experts=_experts(chosen, device),
        ahead=ahead,
    )


def _experts(chosen: Many[Sequence], device: str) -> Tensor | None:
    """Replayed experts of a stream. A document's last token was never computed by the engine, and nothing reads it."""
    if chosen[0].experts is None:
        return None
    parts = []
    for sequence in chosen:
        if sequence.experts is None or len(sequence.experts) != len(sequence.tokens) - 1:
            raise BadInput(
                "experts must be those of every token but the last, of all sequences or none", where="experts"
            )
        recorded = torch.as_tensor(sequence.experts.astype(np.int64), device=device)
        parts += [recorded, _any_experts(recorded, 1)]
    return torch.cat(parts)


def _any_experts(like: Tensor, tokens: int) -> Tensor:
    return torch.arange(like.shape[2], device=like.device).expand(tokens, like.shape[1], -1)


def last_tokens(sequences: Many[np.ndarray], documents: list[int], device: str) -> MicroBatch:
    """The chosen token sequences as one stream whose positions are their last tokens, for a reward head."""
    chosen = [np.asarray(sequences[index], np.int64) for index in documents]
    lengths = [len(tokens) for tokens in chosen]
    last = torch.as_tensor(np.cumsum(lengths) - 1, device=device)
    tokens = torch.as_tensor(np.concatenate(chosen), device=device)
    return MicroBatch(documents, tokens, lengths, last, last, [1] * len(chosen))


def policy_tokens(
    sequences: Many[PolicySequence], batch: MicroBatch, logprobs: Tensor, entropy: Tensor
) -> PolicyTokens:
    """What a policy loss sees of a micro-batch. sequences: those of batch.documents.

    Raises:
        BadInput: an array of a sequence has another length than its response.
    """

    def flat(name: str) -> Tensor:
        values = np.concatenate([np.asarray(getattr(sequence, name), dtype=np.float32) for sequence in sequences])
        if len(values) != len(logprobs):
            raise BadInput(f"{name} has {len(values)} values for {len(logprobs)} response tokens", where=name)
        return torch.as_tensor(values, device=logprobs.device)

    with_reference = sequences[0].reference_logprobs is not None
    return PolicyTokens(
        logprobs=logprobs,
        old_logprobs=flat("old_logprobs"),
        behaviour_logprobs=flat("behaviour_logprobs"),
        reference_logprobs=flat("reference_logprobs") if with_reference else None,
        advantages=flat("advantages"),
        weights=flat("weights"),
        entropy=entropy,
        response=torch.repeat_interleave(
            torch.arange(len(sequences), device=logprobs.device), torch.tensor(batch.counts, device=logprobs.device)
        ),
    )


def chunks(items: Many[Any], size: Callable[[Any], int], limit: int) -> Iterator[list[int]]:
    """Indices of items in order, cut before their sizes add up to more than `limit`; at least one in each."""
    chunk: list[int] = []
    used = 0
    for index, item in enumerate(items):
        if chunk and used + size(item) > limit:
            yield chunk
            chunk, used = [], 0
        chunk.append(index)
        used += size(item)
    if chunk:
        yield chunk
