from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.schema import Message
from components.failures import BadInput
from components.model.spec import PRESETS
from components.model.tokenizer import (
    build_nano_tokenizer,
    check_tokenizer,
    contract,
    decode_response,
    encode_prompt,
    encode_response,
    load_tokenizer,
    render_prompt,
    tokenizer_sha256,
)

CHARACTERS = st.sampled_from([chr(code) for code in range(0x20, 0x7F)] + ["\n", "<think>", "</think>", "\\boxed{"])


@given(st.lists(CHARACTERS, max_size=60).map("".join))
def test_a_response_survives_verbatim(text):
    tokenizer = load_tokenizer("nano")
    ids = encode_response(tokenizer, text)
    assert ids[-1] == tokenizer.eos_token_id
    assert decode_response(tokenizer, ids) == text


def test_special_tokens_are_atomic_and_the_vocabulary_is_padded():
    tokenizer = load_tokenizer("nano")
    assert len(tokenizer) == PRESETS["nano"].vocab_size == 112
    for text in ("<think>", "</think>", "\\boxed{", "<|role_end|>", "<role>HUMAN</role>"):
        assert len(tokenizer.backend_tokenizer.encode(text).ids) == 1
    assert "\\boxed{6}" in tokenizer.decode(encode_response(tokenizer, "\\boxed{6}"), skip_special_tokens=True)


def test_the_prompt_ends_where_the_model_speaks():
    tokenizer = load_tokenizer("nano")
    messages = (Message(role="system", content="s"), Message(role="user", content="1+1"))
    text = "<role>SYSTEM</role>s<|role_end|><role>HUMAN</role>1+1<|role_end|><role>ASSISTANT</role>"
    assert render_prompt(tokenizer, messages) == text
    assert render_prompt(tokenizer, messages, thinking=False) == text + "<think></think>"
    assert decode_response(tokenizer, encode_prompt(tokenizer, messages)) == text


def test_thoughts_of_earlier_turns_are_dropped():
    turns = [("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c")]
    text = render_prompt(load_tokenizer("nano"), [{"role": role, "content": content} for role, content in turns])
    assert "<think>" not in text
    assert "<role>ASSISTANT</role>b<|role_end|>" in text


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = build_nano_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert tokenizer_sha256(again) == tokenizer_sha256(tokenizer)
    assert contract(again, PRESETS["nano"]) == contract(tokenizer, PRESETS["nano"])
    text = "<think>a b\n</think>\\boxed{7}"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == encode_response(tokenizer, text)[:-1]


def test_another_tokenizer_is_refused_with_both_hashes():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(BadInput) as caught:
        check_tokenizer(other, load_tokenizer("nano"), "base.uri")
    assert tokenizer_sha256(other) in str(caught.value)
    assert tokenizer_sha256(load_tokenizer("nano")) in str(caught.value)


def test_a_directory_without_tokenizer_is_named(tmp_path):
    with pytest.raises(BadInput, match=str(tmp_path)):
        load_tokenizer(tmp_path)
