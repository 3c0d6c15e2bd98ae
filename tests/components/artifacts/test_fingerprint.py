"""Fingerprints: blind to order, sensitive to every field, and refusing what cannot be written twice the same way."""

from __future__ import annotations

import datetime
import enum
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.artifacts.fingerprint import canonical_json, explain_difference, fingerprint, identity_of
from components.failures import BadInput
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import GrpoLoss, IcePopLoss

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


def shuffled(value):
    """The same value with every mapping's keys in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_canonical_json_is_json_and_blind_to_order(value):
    assert canonical_json(value) == canonical_json(shuffled(value))
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.dictionaries(TEXT, TEXT, max_size=3))
def test_fingerprint_is_stable_and_sensitive_to_each_part(config, inputs):
    base = fingerprint("sft", 1, config, inputs, 0)
    assert base == fingerprint("sft", 1, shuffled(config), shuffled(inputs), 0)
    assert len(base) == 64
    assert set(base) <= set("0123456789abcdef")
    others = [
        fingerprint("rlvr", 1, config, inputs, 0),
        fingerprint("sft", 2, config, inputs, 0),
        fingerprint("sft", 1, {**config, "another key": 1}, inputs, 0),
        fingerprint("sft", 1, config, {**inputs, "another input": "x"}, 0),
        fingerprint("sft", 1, config, inputs, 1),
    ]
    assert len({base, *others}) == 6


@given(VALUES, VALUES)
def test_a_difference_is_explained_exactly_when_fingerprints_differ(left, right):
    old, new = identity_of("s", 1, {"x": left}, {}, 0), identity_of("s", 1, {"x": right}, {}, 0)
    assert (explain_difference(old, new) == []) == (canonical_json(old) == canonical_json(new))
    assert all(line.startswith("config.x") for line in explain_difference(old, new))


@given(st.sampled_from(sorted(ExecutionConfig.model_fields)), VALUES)
def test_models_hash_as_their_fields(field, value):
    assert canonical_json(IcePopLoss()) == canonical_json(IcePopLoss().model_dump())
    changed = IcePopLoss.model_construct(**{**IcePopLoss().model_dump(), "alpha": 0.4})
    assert canonical_json(changed) != canonical_json(IcePopLoss())
    assert canonical_json(IcePopLoss()) != canonical_json(GrpoLoss())


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        object(),
        float("nan"),
        float("inf"),
        datetime.datetime(2026, 1, 1),
        datetime.date(2026, 1, 1),
        {1, "a"},
        {1.5},
        {1: "a"},
        {Colour.RED: 1},
        b"bytes",
        Path("/tmp"),
        1 + 2j,
        2**53 + 1,
        range(3),
        "\ud800",
        iter([1]),
        Colour,
    ],
    ids=repr,
)
def test_what_has_no_deterministic_identity_is_refused_by_name(value):
    with pytest.raises(BadInput, match=r"config\.deep\[1\]"):
        fingerprint("s", 1, {"deep": [0, value]}, {}, 0)


def test_plain_forms():
    assert canonical_json({"b": (1, 2), "a": Colour.RED, "c": {"y", "x"}, "d": -0.0}) == (
        b'{"a":"red","b":[1,2],"c":["x","y"],"d":0.0}'
    )
    assert canonical_json("é") == '"é"'.encode()
    # Pinned: a change here changes every fingerprint that exists.
    assert fingerprint("sft", 1, IcePopLoss(), {"data": "a:b"}, 7) == (
        "27d3f98cdebb54532607dbc62a0d77886a130ec0e4f541d883e3355eb1ba562c"
    )


def test_explanations_name_field_and_values():
    old = identity_of("sft", 1, {"section": {"steps": 100, "lr": 1.0}}, {"model": f"{'a' * 64}:{'b' * 64}"}, 0)
    new = identity_of(
        "sft", 2, {"section": {"steps": 200, "lr": 1}, "new": True}, {"model": f"{'a' * 64}:{'c' * 64}"}, 0
    )
    assert explain_difference(old, new) == [
        "config.new: absent -> true",
        "config.section.lr: 1.0 -> 1",
        "config.section.steps: 100 -> 200",
        f"inputs.model: {'a' * 12}:{'b' * 12} -> {'a' * 12}:{'c' * 12}",
        "version: 1 -> 2",
    ]


def test_a_field_that_came_later_is_in_an_identity_only_where_it_is_set():
    """Results made before the field existed are found again."""
    plain, named = (_plainly(ModelConfig(preset="nano", mtp_layers=layers)) for layers in (None, 0))
    assert plain == {"preset": "nano", "tokenizer": "nano", "max_position": None}
    assert named == plain | {"mtp_layers": 0}


def _plainly(value):
    return json.loads(canonical_json(value))
