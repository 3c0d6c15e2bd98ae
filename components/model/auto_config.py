"""The transformers configuration class of `bailing_moe`, in a module of its own: an engine of several workers sends it
to child processes as a pickle, which names its module. Imported when it is needed (`hf_config.register`)."""

from __future__ import annotations

from transformers import PretrainedConfig


class BailingMoeV2Config(PretrainedConfig):
    model_type = "bailing_moe"
    keys_to_ignore_at_inference = ("past_key_values",)
