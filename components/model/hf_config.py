"""config.json of BailingMoeV2 from a LingSpec and back, and the configuration class vLLM and transformers read it with.

vLLM's BailingMoeV2ForCausalLM has silent traps, so every attribute it looks up is written: without `score_function` it
routes by softmax, without `use_rmsnorm` QK norm becomes LayerNorm (vllm/model_executor/models/bailing_moe.py).
transformers has no such model type: `register()` adds one in process, and a directory carries
`configuration_bailing_moe_v2.py` for readers that trust remote code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.failures import BadInput
from components.model.spec import LingSpec, YarnScaling

MODEL_TYPE = "bailing_moe"
ARCHITECTURE = "BailingMoeV2ForCausalLM"
CONFIGURATION_FILE = "configuration_bailing_moe_v2.py"
# Projections in FP8 blocks of 128 x 128 (components.model.fp8), or in 4 bits with a factor per 32 inputs
# (components.model.int4), the second time without those of routed experts. What is not is stored in REST.
FP8, INT4, INT4_DENSE = QUANTISED = ("fp8", "int4", "int4-dense")
REST, FP8_BLOCK, INT4_GROUP = "bfloat16", 128, 32
PROJECTION = re.compile(r"\.(query_key_value|attention\.dense|gate_proj|up_proj|down_proj)\.weight$")
ROUTED_EXPERT = re.compile(r"\.mlp\.experts\.")
CONFIGURATION_SOURCE = '''"""Configuration class of BailingMoeV2: every key of config.json becomes an attribute."""

from transformers import PretrainedConfig


class BailingMoeV2Config(PretrainedConfig):
    model_type = "bailing_moe"
    keys_to_ignore_at_inference = ["past_key_values"]
'''

_SAME_NAME = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_experts_per_tok",
    "num_shared_experts",
    "n_group",
    "topk_group",
    "first_k_dense_replace",
    "routed_scaling_factor",
    "score_function",
    "norm_topk_prob",
    "moe_router_enable_expert_bias",
    "router_dtype",
    "use_qk_norm",
    "partial_rotary_factor",
    "rope_theta",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
    "initializer_range",
)

_INT4 = {
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "format": "pack-quantized",
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": INT4_GROUP,
                "dynamic": False,
                "actorder": None,
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
    # vLLM asks for modules as config.json's architecture names them; its router is never quantised, others' might be.
    "ignore": ["lm_head", r"re:.*\.mlp\.gate$"],
}
_QUANTISATION = {
    FP8: {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        "modules_to_not_convert": ["lm_head"],
    },
    INT4: _INT4,
    INT4_DENSE: _INT4 | {"ignore": [*_INT4["ignore"], r"re:.*\.mlp\.experts\..*"]},
}


def register() -> None:
    """Makes AutoConfig read `bailing_moe` directories in this process without remote code. Safe to call twice."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if MODEL_TYPE in CONFIG_MAPPING:
        return
    from components.model.auto_config import BailingMoeV2Config

    AutoConfig.register(MODEL_TYPE, BailingMoeV2Config)


def config_json(spec: LingSpec, tokenizer: Any, dtype: str) -> dict[str, Any]:
    """The content of config.json. dtype: `float32`, `bfloat16` or one of QUANTISED."""
    rope = {
        "rope_type": "default",
        "rope_theta": spec.rope_theta,
        "partial_rotary_factor": spec.partial_rotary_factor,
    }
    if spec.yarn is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": spec.yarn.factor,
            "original_max_position_embeddings": spec.yarn.original_max_position,
        }
    quantisation = _QUANTISATION.get(dtype)
    dtype = dtype if quantisation is None else REST
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "auto_map": {"AutoConfig": f"{CONFIGURATION_FILE.removesuffix('.py')}.BailingMoeV2Config"},
        "ringflow_preset": spec.name,
        **{name: getattr(spec, name) for name in _SAME_NAME},
        "moe_shared_expert_intermediate_size": spec.moe_intermediate_size,
        "rope_parameters": rope,
        "hidden_act": "silu",
        "use_rmsnorm": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "norm_head": False,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
        "output_dropout": 0.0,
        "num_nextn_predict_layers": spec.num_nextn_predict_layers,
        "use_cache": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        **({} if quantisation is None else {"quantization_config": quantisation}),
    }


def spec_from_config(path: Path) -> LingSpec:
    """The architecture a config.json describes.

    Raises:
        BadInput: no file, not JSON, another model type, or a field missing or out of range.
    """
    where = str(path)
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput("no config.json", where=where, remedy="Name a Hugging Face BailingMoeV2 directory") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"not JSON: {error}", where=where) from error
    architectures = config.get("architectures") or []
    if ARCHITECTURE not in architectures:
        raise BadInput(
            f"architectures is {architectures}, not [{ARCHITECTURE!r}]",
            where=f"{where}: architectures",
            remedy="Only Ling 2.0 / BailingMoeV2 checkpoints can be imported",
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    defaults = {
        "partial_rotary_factor": rope.get("partial_rotary_factor"),
        "rope_theta": rope.get("rope_theta"),
        "router_dtype": "fp32",
        "initializer_range": 0.006,
    }
    values = {
        name: config.get(name, defaults.get(name))
        for name in _SAME_NAME
        if config.get(name, defaults.get(name)) is not None
    }
    values["num_nextn_predict_layers"] = config.get("num_nextn_predict_layers") or 0
    if rope.get("rope_type", rope.get("type")) == "yarn":
        values["yarn"] = YarnScaling(
            factor=rope["factor"], original_max_position=rope["original_max_position_embeddings"]
        )
    if config.get("use_bias") or config.get("use_qkv_bias"):
        raise BadInput("biases are not part of Ling 2.0", where=f"{where}: use_bias")
    try:
        return LingSpec(name=config.get("ringflow_preset", path.parent.name or "imported"), **values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        raise BadInput(first["msg"], where=f"{where}: {field}") from error


def quantisation(path: Path) -> str | None:
    """Which of QUANTISED a config.json describes; None for plain weights. Raises BadInput for any other."""
    found = json.loads(path.read_text()).get("quantization_config")
    if not found:
        return None
    if found.get("quant_method") == "fp8" and list(found.get("weight_block_size") or ()) == [FP8_BLOCK, FP8_BLOCK]:
        return FP8
    if _is_int4(found):
        kept = any(re.search(r"(?<!shared_)experts", name) for name in found.get("ignore") or ())
        return INT4_DENSE if kept else INT4
    raise BadInput(
        f"the weights are quantised by {found.get('quant_method')} with blocks of {found.get('weight_block_size')}",
        where=f"{path}: quantization_config",
        remedy=f"Name a BF16 or float32 checkpoint, one in FP8 with blocks of {FP8_BLOCK} x {FP8_BLOCK}, or one in "
        "symmetric int4 packed by compressed-tensors",
    )


def _is_int4(found: dict[str, Any]) -> bool:
    """What components.model.int4 reads: symmetric integers of 4 bits, in groups or by output, weights alone."""
    if (found.get("quant_method"), found.get("format")) != ("compressed-tensors", "pack-quantized"):
        return False
    groups = list((found.get("config_groups") or {}).values())
    weights = [group.get("weights") or {} for group in groups]
    return bool(groups) and all(
        (scheme.get("num_bits"), scheme.get("type", "int"), scheme.get("symmetric", True)) == (4, "int", True)
        and scheme.get("strategy") in ("group", "channel")
        and not (group.get("input_activations") or scheme.get("actorder"))
        for group, scheme in zip(groups, weights, strict=True)
    )


def has_quantised_experts(path: Path) -> bool:
    """Whether routed experts, of a model that has some, are among what a config.json says is quantised."""
    config = json.loads(path.read_text())
    sparse = config.get("first_k_dense_replace", 0) < config.get("num_hidden_layers", 0)
    return sparse and quantisation(path) in (FP8, INT4)
