"""Work in several processes: the order of one, and an end with a reason when a process dies or hangs."""

import os
import signal
import time

import pytest

from components.data.parallel import in_time
from components.data.processes import ordered_in_processes
from components.failures import BadInput, DeadlineExceeded, InfrastructureError


def make(step):
    def work(job):
        if job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "hang":
            time.sleep(600)
        if job == "bad":
            raise BadInput("no text", where="a.jsonl:7", remedy="Write one")
        time.sleep(0.02 * (job % 3))
        return step * job

    return work


def jobs(values):
    return ((f"block {number}", value) for number, value in enumerate(values))


def test_results_come_in_the_order_of_the_jobs():
    assert list(ordered_in_processes(make, (2,), jobs(range(20)), workers=2)) == [2 * value for value in range(20)]


def test_no_more_is_read_than_a_few_jobs_ahead():
    read = []
    source = ((f"block {n}", read.append(n) or n) for n in range(1000))
    results = ordered_in_processes(make, (1,), source, workers=2)
    assert next(results) == 0
    assert len(read) <= 8
    results.close()


@pytest.mark.parametrize(
    ("job", "error", "words"),
    [
        ("die", InfrastructureError, r"block 1: its process ended with exit code -9.*fewer workers"),
        ("hang", DeadlineExceeded, r"block 1: no answer of its process within 6 s"),
        ("bad", BadInput, r"a.jsonl:7: no text. Write one"),
    ],
)
def test_a_process_that_dies_hangs_or_refuses_ends_the_work_with_the_reason(job, error, words):
    results = ordered_in_processes(make, (1,), jobs([0, job, 2, 3]), workers=1, deadline_s=6)
    assert next(results) == 0
    with pytest.raises(error, match=words):
        list(results)


def test_results_of_an_iterator_that_hangs_or_fails():
    def failing():
        yield 1
        raise OSError("a node is gone")

    def hanging():
        yield 1
        time.sleep(2)

    assert list(in_time(iter(range(50)), 30, "the cluster")) == list(range(50))
    for results, seconds, error, words in (
        (failing(), 30, InfrastructureError, "the cluster failed: a node is gone"),
        (hanging(), 0.2, DeadlineExceeded, "the cluster gave no result for 0 s"),
    ):
        taken = in_time(results, seconds, "the cluster")
        assert next(taken) == 1
        with pytest.raises(error, match=words):
            next(taken)
