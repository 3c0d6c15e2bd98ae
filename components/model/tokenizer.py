"""Tokenizer and chat template: the built-in `nano` tokenizer, and one fast path for any Hugging Face tokenizer.

`nano` works on characters, so that a model of a million parameters can copy and compute digit by digit: newline and the
95 printable ASCII characters, plus atomic tokens for the Ling 2.0 turn markers, `<think>` and `\\boxed{`. The template
is Ling 2.0's: `<role>HUMAN</role>...<|role_end|><role>ASSISTANT</role>...<|role_end|>`; the model itself opens
`<think>`, so a response is everything generated up to and with `<|role_end|>`, in SFT, in RL and in serving alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts.ref import ModelContract
from components.failures import BadInput
from components.model.spec import NANO_VOCABULARY, LingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<|role_end|>"
ROLES = ("<role>HUMAN</role>", "<role>ASSISTANT</role>", "<role>SYSTEM</role>")
# Part of a response's text: never dropped by skip_special_tokens.
VISIBLE = ("<think>", "</think>", "\\boxed{")

# `enable_thinking=False` answers at once, by an empty thought, as the Qwen3 and Ring templates do. Thoughts of earlier
# turns are dropped: they cost context and the model was trained without them.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}<role>SYSTEM</role>{{ message.content }}"
    "{%- elif message.role == 'user' -%}<role>HUMAN</role>{{ message.content }}"
    "{%- elif message.role == 'assistant' -%}<role>ASSISTANT</role>"
    "{{ message.content if loop.last else message.content.split('</think>')[-1] }}"
    "{%- else -%}{{ raise_exception('unknown role ' ~ message.role) }}{%- endif -%}"
    "<|role_end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<role>ASSISTANT</role>"
    "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}"
    "{%- endif -%}"
)


def build_nano_tokenizer() -> PreTrainedTokenizerFast:
    """The `nano` tokenizer: 112 ids, padded with `<extra_N>` tokens that never occur."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    special = (PAD, BOS, UNK, EOS, *ROLES)
    characters = ("\n", *(chr(code) for code in range(0x20, 0x7F)))
    named = (*special, *VISIBLE, *characters)
    extra = tuple(f"<extra_{index}>" for index in range(NANO_VOCABULARY - len(named)))
    vocabulary = {token: index for index, token in enumerate((*named, *extra))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in VISIBLE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """`nano`, or the fast tokenizer in a directory.

    Raises:
        BadInput: no readable fast tokenizer there, or it has no chat template or no EOS token.
    """
    if str(source) == "nano":
        return _nano()
    directory = Path(source)
    if not (directory / "tokenizer.json").is_file():
        raise BadInput(
            "no tokenizer.json", where=str(directory), remedy="Name a directory with a Hugging Face fast tokenizer"
        )
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(directory))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise BadInput(f"cannot read the tokenizer: {error}", where=str(directory)) from error
    if not tokenizer.chat_template:
        raise BadInput("the tokenizer has no chat template", where=str(directory / "tokenizer_config.json"))
    if tokenizer.eos_token_id is None:
        raise BadInput("the tokenizer has no EOS token", where=str(directory / "tokenizer_config.json"))
    return tokenizer


@lru_cache(maxsize=1)
def _nano() -> PreTrainedTokenizerFast:
    return build_nano_tokenizer()


def render_prompt(tokenizer: PreTrainedTokenizerFast, messages: Iterable[Any], *, thinking: bool = True) -> str:
    """The text before the assistant's turn. `messages`: components.data.schema.Message or {"role", "content"}."""
    plain = [
        message if isinstance(message, Mapping) else {"role": message.role, "content": message.content}
        for message in messages
    ]
    return tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)


def encode_prompt(tokenizer: PreTrainedTokenizerFast, messages: Iterable[Any], *, thinking: bool = True) -> list[int]:
    """Token ids of everything before the assistant's turn, ending with the assistant's role marker."""
    return encode_text(tokenizer, render_prompt(tokenizer, messages, thinking=thinking))


def encode_response(tokenizer: PreTrainedTokenizerFast, response: str) -> list[int]:
    """Token ids of an assistant turn, ending with EOS."""
    return [*encode_text(tokenizer, response), tokenizer.eos_token_id]


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of raw text, nothing added. The backend is called directly: the wrapper costs ten times the work."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def decode_response(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """The text of an assistant turn, verbatim, without the end-of-turn token."""
    ids = list(ids)
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Identity of what text becomes which ids: the backend without its truncation and padding settings."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend = {key: value for key, value in backend.items() if key not in ("truncation", "padding", "version")}
    canonical = json.dumps(backend, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def contract(tokenizer: PreTrainedTokenizerFast, spec: LingSpec, dtype: str = "float32") -> ModelContract:
    """What a model artifact promises to the stages that start from it.

    Raises:
        BadInput: the tokenizer has ids the model has no embedding for.
    """
    if len(tokenizer) > spec.vocab_size:
        raise BadInput(
            f"the tokenizer has {len(tokenizer)} tokens, the model {spec.name} only {spec.vocab_size} embeddings",
            where="model.tokenizer",
            remedy="Use the tokenizer the model was made with",
        )
    return ModelContract(
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        chat_template_sha256=hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest(),
        eos_token_id=tokenizer.eos_token_id,
        vocabulary=spec.vocab_size,
        context_length=spec.max_position_embeddings,
        dtype=dtype,
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, expected: PreTrainedTokenizerFast, where: str) -> None:
    """Refuses a model whose tokenizer is not the recipe's.

    Raises:
        BadInput: naming both hashes.
    """
    found, wanted = tokenizer_sha256(tokenizer), tokenizer_sha256(expected)
    if found != wanted:
        raise BadInput(
            f"the model's tokenizer has sha256 {found}, the recipe's tokenizer {wanted}",
            where=where,
            remedy="Set model.tokenizer to the model's directory, or import a model made with the recipe's tokenizer",
        )
