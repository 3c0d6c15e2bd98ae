"""RL prompts of a phase: read from the clean corpus, rendered with the chat template, and cut to what fits."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from components.data.jsonl import read_records
from components.data.schema import RlRecord
from components.failures import BadInput
from components.model.tokenizer import encode_text, render_prompt
from components.rl.batch import Prompt

log = logging.getLogger(__name__)


def load_prompts(path: Path, tokenizer: Any, domains: Collection[str], max_tokens: int) -> list[Prompt]:
    """The prompts of these domains in file order. Those longer than `max_tokens` are left out and counted in the log.

    Raises:
        BadInput: a malformed record, or no prompt of a wanted domain.
    """
    prompts, longer = [], 0
    for record in read_records(path, RlRecord):
        if record.domain not in domains:
            continue
        text = render_prompt(tokenizer, record.prompt)
        tokens = encode_text(tokenizer, text)
        if len(tokens) > max_tokens:
            longer += 1
            continue
        prompts.append(Prompt(record.id, record.domain, record.family, tokens, text, record.verifier))
    missing = set(domains) - {prompt.domain for prompt in prompts}
    if missing:
        raise BadInput(
            f"no prompt of domain {', '.join(sorted(missing))} with at most {max_tokens} tokens ({longer} were longer)",
            where=str(path),
            remedy="Add such prompts to the corpus, or take the domain out of the phase",
        )
    if longer:
        log.warning("%s: %d prompts of more than %d tokens left out", path, longer, max_tokens)
    return prompts
