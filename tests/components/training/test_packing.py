from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.failures import BadInput
from components.training.documents import plan_steps
from components.training.packing import _best_fit, micro_batches, pack, shard

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


@given(LENGTHS)
def test_every_document_stands_whole_in_one_row(lengths):
    packing = pack(lengths, 64)
    assert sorted(document for row in packing.rows for document in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[document] for document in row) <= 64 for row in packing.rows)
    if lengths:
        assert packing.fill == sum(lengths) / (64 * len(packing.rows))
        # Best fit never opens a row while two others are at most half full.
        assert sum(sum(lengths[d] for d in row) <= 32 for row in packing.rows) <= 1
    batches = list(micro_batches(packing, 64, 128))
    assert [document for batch in batches for document in batch] == [d for row in packing.rows for d in row]
    assert all(sum(lengths[d] for d in batch) <= 128 for batch in batches)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=40))
def test_few_long_rows_are_packed_at_least_as_well_as_by_best_fit(lengths):
    packing = pack(lengths, 4096)
    assert sorted(document for row in packing.rows for document in row) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in row) <= 4096 for row in packing.rows)
    assert packing == pack(lengths, 4096)
    assert len(packing.rows) <= len(_best_fit(lengths, 4096))


def test_exact_sums_find_the_rows_that_best_fit_misses():
    lengths = [259, 2870, 967, 483, 562, 3051]
    assert len(_best_fit(lengths, 4096)) == 3
    assert [sum(lengths[document] for document in row) for row in pack(lengths, 4096).rows] == [4096, 4096]


@pytest.mark.parametrize("lengths", [[3, 65], [0]])
def test_a_document_that_does_not_fit_is_named(lengths):
    with pytest.raises(BadInput, match=f"document {len(lengths) - 1}"):
        pack(lengths, 64)


@given(LENGTHS, st.integers(1, 5))
def test_shards_cover_all_and_differ_by_at_most_one_document(lengths, ranks):
    shards = shard(lengths, ranks)
    assert sorted(document for part in shards for document in part) == list(range(len(lengths)))
    loads = [sum(lengths[document] for document in part) for part in shards]
    assert max(loads) - min(loads) <= max(lengths, default=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 3))
def test_a_plan_is_a_function_of_its_seed_and_passes_over_everything(sizes, seed):
    plan = plan_steps(sizes, 50, 12, seed)
    assert plan == plan_steps(sizes, 50, 12, seed)
    assert len(plan) == 12
    assert all(batch and (len(batch) == 1 or sum(sizes[i] for i in batch) <= 50) for batch in plan)
    flat = [index for batch in plan for index in batch]
    assert len(set(flat[: len(sizes)])) == min(len(flat), len(sizes))
