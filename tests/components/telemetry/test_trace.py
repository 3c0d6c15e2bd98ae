"""Spans leave by OTLP over HTTP to a collector; without one, or with a dead one, the run does not care."""

import time

import pytest

from components.failures import BadInput
from components.telemetry.trace import CLOSE_DEADLINE_S, VARIABLES, traced
from tests.components.telemetry.collector import attributes, collecting


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_spans_arrive_with_parents_times_and_attributes(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv(VARIABLES[0], collector.url)
        with traced(**{"ringflow.version": "1"}) as tracer:
            assert tracer is not None
            first = tracer.trace("prompt", 1_000, 9_000, {"ringflow.step": 3})
            first.child("rollout", 2_000, 5_000).child("inside", 3_000, 4_000)
            tracer.trace("prompt", 10_000, 11_000)
        one, other = collector.named("prompt")
        assert one.trace_id != other.trace_id
        assert not one.parent_span_id
        assert attributes(one) == {"ringflow.step": 3}
        (rollout,) = collector.below(one)
        assert (rollout.start_time_unix_nano, rollout.end_time_unix_nano) == (2_000, 5_000)
        assert [span.name for span in collector.below(rollout)] == ["inside"]
        assert collector.resources[0]["service.name"] == "ringflow"
        assert collector.resources[0]["ringflow.version"] == "1"


def test_it_is_off_without_a_collector():
    with traced() as tracer:
        assert tracer is None


@pytest.mark.parametrize("address", ["localhost:4318", "grpc://host:4317", "http://"])
def test_what_is_no_address_is_said_at_once(monkeypatch, address):
    monkeypatch.setenv(VARIABLES[1], address)
    with pytest.raises(BadInput, match=VARIABLES[1]), traced():
        pass


def test_a_collector_that_is_not_there_costs_its_spans_alone(monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "http://127.0.0.1:9/v1/traces")
    started = time.monotonic()
    with traced() as tracer:
        tracer.trace("prompt", 1, 2)
        assert time.monotonic() - started < 2
    assert time.monotonic() - started < 3 * CLOSE_DEADLINE_S
