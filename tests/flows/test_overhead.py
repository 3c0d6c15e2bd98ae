"""What orchestration costs: parts that add up to the wall time without the stages' own work, in page and summary."""

from __future__ import annotations

import threading
import time

import pytest

from components.artifacts.spent import Meter, own_work, spent_on
from components.lineage.report.write import COSTS, add_costs
from flows.overhead import REST, START, overhead
from tasks.runner import Timing


def test_a_part_inside_another_is_counted_once():
    meter = Meter()
    with meter.active(), spent_on("S3"):
        time.sleep(0.02)
        with spent_on("hashing"):
            time.sleep(0.04)
    assert meter.seconds["hashing"] >= 0.04
    assert 0.02 <= meter.seconds["S3"] < meter.seconds["hashing"]
    with spent_on("S3"):  # no meter here: nothing is measured, nothing breaks
        pass
    assert set(meter.seconds) == {"S3", "hashing"}


def test_a_stages_own_work_called_from_a_wait_is_no_wait():
    with Meter().active() as meter, spent_on("S3"):
        time.sleep(0.02)
        with own_work():
            time.sleep(0.5)
            with spent_on("S3"):
                time.sleep(0.02)
    assert meter.seconds.keys() == {"S3"}
    assert 0.04 <= meter.seconds["S3"] < 0.5


def test_only_the_thread_of_the_meter_is_measured_and_failures_count_too():
    meter = Meter()

    @spent_on("MLflow")
    def fail():
        raise ValueError

    with meter.active():
        thread = threading.Thread(target=lambda: spent_on("leases").__enter__())
        thread.start()
        thread.join()
        with pytest.raises(ValueError):  # noqa: PT011
            fail()
    assert set(meter.seconds) == {"MLflow"}


def test_a_stages_work_is_without_what_it_waited_for():
    timing = Timing()
    with timing.meter.active(), timing.work():
        time.sleep(0.02)
        with spent_on("S3"):
            time.sleep(0.05)
    assert timing.work_seconds >= 0.02
    assert timing.work_seconds < timing.result()["waited"]["S3"]


def test_the_parts_add_up_to_the_wall_time_without_work(tmp_path):
    outcomes = [
        {"work_seconds": 60.0, "waited": {"S3": 1.0, "MLflow": 0.5}},
        {"work_seconds": 30.0, "waited": {"S3": 0.5, "hashing": 0.25}},
        {"state": "skipped"},
    ]
    cost = overhead(100.0, 2.0, outcomes, {"MLflow": 0.25, "report": 3.0})
    assert cost.parts[START] == 2.0
    assert cost.parts[REST] == pytest.approx(100 - 90 - 2 - 1.5 - 0.75 - 0.25 - 3)
    assert sum(cost.parts.values()) == pytest.approx(cost.seconds) == 10.0
    assert cost.share == pytest.approx(0.1)
    assert cost.rows()[0][0] == "run report"
    assert cost.rows()[-1] == ("orchestration in all", 10.0, 0.1)
    page = tmp_path / "page.html"
    page.write_text(f"<body>{COSTS}</body>")
    add_costs(page, cost.wall_s, cost.rows())
    assert COSTS not in page.read_text()
    assert '<td>hashing</td><td class="n">0.25 s</td><td class="n">0.25</td>' in page.read_text()
