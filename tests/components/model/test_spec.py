from __future__ import annotations

import pytest
from pydantic import ValidationError

from components.failures import BadInput
from components.model.architecture import check_architecture
from components.model.spec import PRESETS, extended, spec_for
from components.recipe.model import ModelConfig


@pytest.mark.parametrize(
    ("preset", "total", "active"),
    [("ring-mini-2.0", 16.3e9, 1.43e9), ("ring-flash-2.0", 102.9e9, 6.15e9), ("ring-1t", 999.7e9, 51.05e9)],
)
def test_parameter_counts_match_the_published_totals(preset, total, active):
    counted = PRESETS[preset].parameter_count()
    assert counted[0] == pytest.approx(total, rel=5e-3)
    assert counted[1] == pytest.approx(active, rel=5e-3)


def test_the_largest_preset_matches_to_its_published_digits():
    total, active = PRESETS["ring-1t"].parameter_count()
    assert round(total / 1e9, 1) == 999.7
    assert round(active / 1e9, 2) == 51.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": 6}, "twice topk_group"),
        ({"num_experts": 18}, "not a multiple"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"first_k_dense_replace": 9}, "more dense layers"),
    ],
)
def test_inconsistent_shapes_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        type(PRESETS["nano"]).model_validate({**PRESETS["nano"].model_dump(), **change})


def test_max_position_comes_from_the_recipe():
    assert spec_for(ModelConfig(preset="nano", max_position=128)).max_position_embeddings == 128
    assert spec_for(ModelConfig(preset="ring-1t")).num_hidden_layers == 80


def test_another_architecture_is_named_field_by_field():
    with pytest.raises(BadInput, match=r"num_hidden_layers 2 \(recipe: 4\)"):
        check_architecture(PRESETS["smoke"], PRESETS["nano"], "base.uri")


def test_yarn_lengthens_the_context_and_only_once():
    spec = PRESETS["nano"]
    longer = extended(spec, 2.0)
    assert (longer.max_position_embeddings, longer.yarn.original_max_position, longer.yarn.factor) == (1024, 512, 2.0)
    assert extended(spec, None) is spec
    with pytest.raises(BadInput, match="YaRN already"):
        extended(longer, 2.0)
