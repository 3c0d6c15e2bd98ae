"""The traces of responses that several steps drew, that failed, or that an earlier process drew."""

from components.data.schema import Verifier
from components.rewards.types import Reward
from components.rl.batch import Group, Prompt, Selection
from components.rl.traces import MOST_KNOWN, SAMPLED_GROUPS, Traces
from components.rollout.types import Sample
from components.telemetry.trace import Tracer
from tests.components.telemetry.collector import attributes, collecting

MATH = Verifier(kind="math", reference={})
PROMPTS = [Prompt(f"p{i}", "math", "f", [1], "?", MATH) for i in range(SAMPLED_GROUPS + 1)]


def group(prompt: int, versions=None, reward=None) -> Group:
    sample = Sample(f"g/{prompt}/0", [1], [2, 3, 4], [0.0] * 3, "stop", 1, versions=versions)
    return Group(prompt, (sample,), (reward or Reward(1.0, "correct"),))


def written(traces: Traces, groups, spent, outcomes, undone=False) -> None:
    selection = Selection([], [], [], list(zip([g.prompt for g in groups], outcomes, strict=True)), 0)
    traces.step(7, groups, PROMPTS, spent, selection, undone)


def traced_steps(write):
    with collecting() as collector:
        tracer = Tracer({}, collector.url)
        write(Traces(tracer, {"ringflow.stage": "rlvr-1"}))
        tracer.close()
    return collector


def test_a_carried_response_keeps_its_start_and_both_versions():
    def write(traces):
        traces.asked("g/0/0")
        traces.judged(["g/0/0"], answered=10**18 * 2)
        traces.known["g/0/0"].asked = 5
        written(traces, [group(0, versions=[0, 0, 1])], [("update", 100, 200)], ["trained"])
        assert not traces.known

    collector = traced_steps(write)
    (root,) = collector.named("prompt")
    (rollout,) = collector.named("rollout")
    assert root.start_time_unix_nano == rollout.start_time_unix_nano == 5
    found = attributes(rollout)
    assert (found["ringflow.version.first"], found["ringflow.version.last"], found["ringflow.tokens"]) == (0, 1, 3)
    assert attributes(root)["ringflow.step"] == 7
    assert [span.name for span in collector.below(root)] == ["rollout", "reward", "update"]


def test_an_error_has_no_reward_and_what_is_undone_was_not_trained_on():
    def write(traces):
        traces.asked("g/0/0")
        traces.judged(["g/0/0"], answered=1)
        failed = group(0, reward=Reward(None, "error", {"problem": "gone"}))
        written(traces, [failed], [("update", 100, 200)], ["trained"], undone=True)

    collector = traced_steps(write)
    (reward,) = collector.named("reward")
    assert attributes(reward)["ringflow.verdict"] == "error"
    assert "ringflow.reward" not in attributes(reward)
    (root,) = collector.named("prompt")
    assert attributes(root)["ringflow.outcome"] == "discarded"
    assert "update" not in [span.name for span in collector.below(root)]


def test_the_first_groups_alone_and_none_that_an_earlier_process_drew():
    def write(traces):
        groups = [group(i) for i in range(SAMPLED_GROUPS + 1)]
        for made in groups[1:]:  # the first was drawn before this process started
            traces.asked(made.samples[0].request_id)
            traces.judged([made.samples[0].request_id], answered=1)
        written(traces, groups, [("update", 100, 200)], ["trained"] * len(groups))

    collector = traced_steps(write)
    asked = [attributes(span)["ringflow.prompt"] for span in collector.named("prompt")]
    assert asked == [f"p{i}" for i in range(1, SAMPLED_GROUPS)]
    assert len(collector.named("step")) == 1


def test_what_never_comes_is_forgotten():
    traces = Traces(Tracer({}, "http://127.0.0.1:9"), {})
    for number in range(MOST_KNOWN + 3):
        traces.asked(str(number))
    assert len(traces.known) == MOST_KNOWN
    assert "2" not in traces.known


def test_without_a_tracer_nothing_is_kept():
    traces = Traces(None)
    traces.asked("a")
    traces.judged(["a"], 1)
    written(traces, [group(0)], [("update", 1, 2)], ["trained"])
    assert not traces.known
