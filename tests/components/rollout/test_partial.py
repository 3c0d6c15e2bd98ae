"""Partial rollouts on a real vLLM: slices draw what a whole run draws; new weights are resumed from tokens alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.failures import BadInput, DeadlineExceeded, IntegrityError
from components.rollout.types import SampleRequest, Sampling, Until
from tests.components.rollout.test_engine import (
    DEADLINE_S,
    SAMPLING,
    engine,  # noqa: F401  (a fixture)
    publish,
    requests,
    tokenizer,  # noqa: F401
    trainer_logprobs,
    weights_of,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


class Gathered:
    """What a caller keeps of partial rollouts: tokens, log-probs and the version of every token."""

    def __init__(self, wanted: list[SampleRequest]) -> None:
        self.wanted = {request.request_id: request for request in wanted}
        self.tokens = {name: [] for name in self.wanted}
        self.logprobs = {name: [] for name in self.wanted}
        self.versions = {name: [] for name in self.wanted}
        self.finish: dict[str, str] = {}

    def left(self) -> list[SampleRequest]:
        return [
            replace(request, drawn=list(self.tokens[name]))
            for name, request in self.wanted.items()
            if name not in self.finish
        ]

    def add(self, progress) -> int:
        for part in progress:
            assert part.request_id not in self.finish
            assert len(part.tokens) == len(part.logprobs) > 0
            self.tokens[part.request_id] += part.tokens
            self.logprobs[part.request_id] += part.logprobs
            self.versions[part.request_id] += [part.version] * len(part.tokens)
            if part.finish:
                self.finish[part.request_id] = part.finish
        return sum(len(part.tokens) for part in progress)


@pytest.mark.parametrize(
    "slices", [Until(), Until(tokens=50), Until(seconds=0.02), Until(tokens=60, counts="finished")]
)
def test_slices_under_one_version_draw_what_a_whole_run_draws(engine, slices):  # noqa: F811
    _, weights = weights_of(1)
    publish(engine, 0, weights)
    wanted = requests(40)  # more than the engine's 32 places
    whole = engine.generate(wanted, SAMPLING, 0, DEADLINE_S)
    gathered = Gathered(wanted)
    while left := gathered.left():
        drawn = gathered.add(engine.advance(left, SAMPLING, 0, slices, DEADLINE_S))
        if slices.tokens and slices.counts == "generated":
            assert drawn < slices.tokens + 32
    for sample in whole:
        assert gathered.tokens[sample.request_id] == sample.tokens
        assert gathered.finish[sample.request_id] == sample.finish
        np.testing.assert_allclose(gathered.logprobs[sample.request_id], sample.logprobs, atol=1e-5)


def test_resumed_under_new_weights_every_token_has_the_log_prob_of_the_version_that_drew_it(engine):  # noqa: F811
    models, wanted = {}, requests(24)
    gathered = Gathered(wanted)
    for version, seed in enumerate((1, 2, 3)):
        models[version], weights = weights_of(seed)
        publish(engine, version, weights)
        until = Until(tokens=150) if version < 2 else Until()
        gathered.add(engine.advance(gathered.left(), SAMPLING, version, until, DEADLINE_S))
    assert len(gathered.finish) == 24
    mixed = [name for name, versions in gathered.versions.items() if len(set(versions)) > 1]
    assert len(mixed) > 10
    for name, request in gathered.wanted.items():
        tokens, versions = gathered.tokens[name], np.array(gathered.versions[name])
        by_version = np.stack([trainer_logprobs(models[v], request.prompt, tokens) for v in range(3)])
        expected = by_version[versions, np.arange(len(tokens))]
        # A key or value left from another version, in a running request or the prefix cache, is off by far more.
        np.testing.assert_allclose(gathered.logprobs[name], expected, atol=1e-5)
    spread = np.abs(by_version[0] - by_version[1]).max()
    assert spread > 1e-2


def test_prefix_cache_serves_one_version_only(engine):  # noqa: F811
    """The same long prompt under two weights, twice each: hits inside a version, none across."""
    prompt = [int(token) for token in np.random.default_rng(0).integers(8, 100, 96)]
    sampling = Sampling(1.0, 1.0, 8, (3,))
    for version, seed in ((0, 1), (1, 2)):
        model, weights = weights_of(seed)
        publish(engine, version, weights)
        for attempt in range(2):
            request = SampleRequest(f"p{version}{attempt}", prompt, seed=5)
            (part,) = engine.advance([request], sampling, version, Until(), DEADLINE_S)
            expected = trainer_logprobs(model, prompt, part.tokens)
            np.testing.assert_allclose(part.logprobs, expected, atol=1e-5)


def test_forced_lengths_and_refusals(engine):  # noqa: F811
    _, weights = weights_of(1)
    publish(engine, 7, weights)
    wanted = [replace(request, length=3 + i) for i, request in enumerate(requests(12))]
    gathered = Gathered(wanted)
    gathered.add(engine.advance(wanted, SAMPLING, 7, Until(tokens=40), DEADLINE_S))
    gathered.add(engine.advance(gathered.left(), SAMPLING, 7, Until(), DEADLINE_S))
    assert [len(gathered.tokens[request.request_id]) for request in wanted] == list(range(3, 15))
    with pytest.raises(IntegrityError, match="version 7, the request wants version 8"):
        engine.advance(wanted, SAMPLING, 8, Until(), DEADLINE_S)
    engine.advance(wanted[:4], SAMPLING, 7, Until(tokens=4), DEADLINE_S)
    with pytest.raises(IntegrityError, match="the caller says 0"):
        engine.advance(wanted[:4], SAMPLING, 7, Until(), DEADLINE_S)
    engine.pause()
    with pytest.raises(BadInput, match="context of 128"):
        engine.advance([replace(wanted[0], length=200)], SAMPLING, 7, Until(), DEADLINE_S)
    with pytest.raises(DeadlineExceeded, match="unfinished after"):
        engine.advance([replace(r, length=100) for r in wanted], SAMPLING, 7, Until(), 0.05)
    assert engine.advance([], SAMPLING, 7, Until(), DEADLINE_S) == []
