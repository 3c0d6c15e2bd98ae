"""Mixing is a pure function of data, ratios and seed; every number of the plan is met, at any bucket size."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.data.mix import draw, make_plan, mix_table, shuffled
from components.data.permutation import Permutation
from components.data.schema import Message, SftRecord
from components.failures import BadInput
from components.recipe.mix import MixConfig, SplitMix

COUNTS = {"math": 500, "science": 300, "code": 200, "general": 30, "logic": 20}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.text(max_size=8))
def test_a_permutation_is_a_bijection(size, key):
    place = Permutation(size, key)
    assert sorted(map(place, range(size))) == list(range(size))


def test_permutations_of_other_keys_are_other_orders():
    orders = {tuple(map(Permutation(50, key), range(50))) for key in "abc"}
    assert len(orders) == 3
    assert tuple(range(50)) not in orders


def records(counts):
    for domain, count in counts.items():
        for n in range(count):
            user = (Message(role="user", content=f"{domain} {n}"),)
            yield SftRecord(id=f"{domain}{n}", source="s", domain=domain, family="f", prompt=user, response="r")


def domain(record):
    return record.domain


@pytest.mark.parametrize("preset", ["ring-sft", "ring-rlvr"])
def test_published_presets_give_their_shares(preset):
    mix = SplitMix(preset=preset)
    plan = make_plan(COUNTS, {}, mix, "mix.sft")
    table = mix_table("sft", plan, {group: each.taken for group, each in plan.draws.items()})
    assert max(map(abs, table["deviation"])) < 0.01
    assert abs(sum(table["wanted"]) - 1) < 1e-9
    wanted = {"ring-sft": 0.46, "ring-rlvr": 42.2 / 99.9}[preset]
    assert plan.draws["math"].wanted == pytest.approx(wanted)
    # As many as the scarcest group allows: it gives all it has.
    assert max(each.epochs for each in plan.draws.values()) == pytest.approx(1.0, abs=0.03)
    assert all(each.taken <= each.available for each in plan.draws.values())


def test_epochs_caps_and_what_is_left_out():
    mix = SplitMix(ratios={"math": 1, "code": 1}, max_epochs=2.5, caps={"math": 400})
    plan = make_plan(COUNTS, {}, mix, "mix.sft")
    assert {group: each.taken for group, each in plan.draws.items()} == {"code": 400, "math": 400}
    assert plan.left_out == {"general": 30, "logic": 20, "science": 300}
    drawn = list(draw(records(COUNTS), domain, plan, mix, seed=1))
    used = Counter(record.id for record in drawn)
    assert Counter(used.values()) == {2: 200, 1: 400}  # all code twice, 400 of 500 in math once
    assert sum(record.transformations == ("mix copy 2",) for record in drawn) == 200
    other = Counter(record.id for record in draw(records(COUNTS), domain, plan, mix, seed=2))
    assert other != used


def test_too_many_records_name_the_scarce_group():
    mix = SplitMix(preset="ring-sft", records=2000)
    with pytest.raises(BadInput, match=r"mix\.sft.*160 of general\|logic, which has 50.*at most 625"):
        make_plan(COUNTS, {}, mix, "mix.sft")
    assert make_plan(COUNTS, {}, mix.model_copy(update={"max_epochs": 4.0}), "mix.sft").total == 2000
    with pytest.raises(BadInput, match=r"no records of puzzles.*math \(500\)"):
        make_plan(COUNTS, {}, SplitMix(ratios={"puzzles": 1}), "mix.sft")


def test_ratios_of_tokens_take_fewer_of_the_long_records():
    mix = SplitMix(ratios={"math": 1, "code": 1}, unit="tokens")
    plan = make_plan({"math": 100, "code": 100}, {"math": 1000, "code": 4000}, mix, "mix.sft")
    assert {group: each.taken for group, each in plan.draws.items()} == {"code": 25, "math": 100}


def test_temperature_flattens_natural_shares():
    counts = {"a": 900, "b": 100}
    assert make_plan(counts, {}, SplitMix(), "m").draws["a"].wanted == pytest.approx(0.9)
    assert make_plan(counts, {}, SplitMix(temperature=2), "m").draws["a"].wanted == pytest.approx(0.75)
    with pytest.raises(ValidationError, match="temperature"):
        SplitMix(preset="ring-sft", temperature=2)
    with pytest.raises(ValidationError, match=r"rl\.max_epochs"):
        MixConfig(rl=SplitMix(max_epochs=2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 120), st.integers(1, 4000), st.integers(1, 5000))
def test_the_order_depends_on_the_seed_alone(tmp_path_factory, count, bucket, expected):
    lines = [f"line {n}\n".encode() for n in range(count)]
    scratch = tmp_path_factory.mktemp("shuffle")
    mixed = list(shuffled(lines, count, 7, scratch, expected, bucket)) if count else []
    assert sorted(mixed) == sorted(lines)
    assert mixed == (list(shuffled(lines, count, 7, scratch, 1, 1 << 20)) if count else [])
    if count > 20:
        assert mixed != lines
        assert mixed != list(shuffled(lines, count, 8, scratch, 1, 1 << 20))
        # Neighbours are taken apart: no long run of the old order is left.
        places = [int(line.split()[1]) for line in mixed]
        assert sum(b == a + 1 for a, b in itertools.pairwise(places)) < count / 4
