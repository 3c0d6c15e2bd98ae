from __future__ import annotations

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from components.model.rotary import inverse_frequencies, rotary_angles
from components.model.spec import PRESETS, YarnScaling

MINI = PRESETS["ring-mini-2.0"]


def test_yarn_equals_the_library_people_load_checkpoints_with() -> None:
    spec = MINI.model_copy(update={"yarn": YarnScaling(factor=2.0, original_max_position=65_536)})
    config = PretrainedConfig(
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.num_attention_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": spec.rope_theta,
            "partial_rotary_factor": spec.partial_rotary_factor,
            "factor": 2.0,
            "original_max_position_embeddings": 65_536,
        },
    )
    expected, scale = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    found, found_scale = inverse_frequencies(spec)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert found_scale == scale
    plain, one = inverse_frequencies(MINI)
    assert one == 1.0
    assert found[0] == plain[0]
    assert torch.isclose(found[-1], plain[-1] / 2)


def test_angles_equal_the_engines_cache_bit_for_bit() -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    parameters = {"rope_type": "default", "rope_theta": MINI.rope_theta, "partial_rotary_factor": 0.5}
    with set_current_vllm_config(VllmConfig()):
        rope = get_rope(MINI.head_dim, 4096, True, parameters, torch.float32)
    cos, sin = rotary_angles(MINI, torch.arange(4096))
    ours = torch.cat([cos.squeeze(1), sin.squeeze(1)], dim=1)
    assert torch.equal(ours, rope.cos_sin_cache[:4096])
