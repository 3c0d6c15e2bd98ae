"""The generator: deterministic, disjoint splits, worked solutions that are right, and the levels it promises."""

from __future__ import annotations

import random
import re

import pytest

from components.data.generator import generate
from components.data.generator.code import fold_in
from components.data.generator.corpus import OPEN, TAUGHT
from components.data.generator.problem import BENCHMARK_LEVELS, OPEN_SFT_LEVELS, RL_LEVELS
from components.data.preference import gold
from components.recipe.data import GeneratorSource

SOURCE = GeneratorSource(pretrain=40, sft=600, rl=400, preference=120, benchmark=24)


@pytest.fixture(scope="module")
def corpus():
    return generate(SOURCE, seed=3)


def test_same_seed_same_records_other_seed_other_records(corpus):
    assert generate(SOURCE, seed=3) == corpus
    assert generate(SOURCE, seed=4).rl != corpus.rl


def test_counts_are_what_was_asked_for(corpus):
    assert (len(corpus.pretrain), len(corpus.sft), len(corpus.rl)) == (40, 600, 400)
    assert len(corpus.preference) + len(corpus.preference_heldout) == 120
    assert {name: len(items) for name, items in corpus.benchmarks.items()} == {
        f"nano-{domain}": 24 for domain in ("math", "code", "logic", "science", "general")
    }


def _key(record) -> str:
    """What a prompt asks, whatever the labels of its steps."""
    text = record.prompt[0].content
    if record.family in ("reply", "sorting"):
        return text
    step = {"atoms": "[CHO]", "motion": r"[fb]\d"}.get(record.family, r"\W\d|[ASMR]\d")
    head, steps = re.fullmatch(rf"(\w:\d?)((?:[a-l](?:{step}))+)", text).groups()
    return head + re.sub(rf"[a-l]({step})", r"\1 ", steps)


def test_no_prompt_stands_in_two_splits(corpus):
    heldout = {_key(item) for items in corpus.benchmarks.values() for item in items}
    rl = {_key(record) for record in corpus.rl}
    sft = {_key(record) for record in corpus.sft}
    preference = {record.prompt[0].content for record in (*corpus.preference, *corpus.preference_heldout)}
    for left, right in ((heldout, rl), (heldout, sft), (rl, sft), (preference, heldout | rl | sft)):
        assert not left & right
    assert len(rl) == len(corpus.rl)


def test_sft_shows_no_level_that_rl_asks_for(corpus):
    open_families = {family.name for family in OPEN}
    assert not set(OPEN_SFT_LEVELS) & set(RL_LEVELS)
    assert {record.level for record in corpus.sft if record.family in open_families} == set(OPEN_SFT_LEVELS)
    reasoning = [record for record in corpus.rl if record.domain != "general"]
    assert {record.family for record in reasoning} == open_families
    assert {record.level for record in reasoning} == set(RL_LEVELS)
    assert {item.level for item in corpus.benchmarks["nano-math"]} == set(BENCHMARK_LEVELS)
    careless = {True: r"<think></think>", False: r"<think>(\w;)+</think>"}  # bare answers, or steps named, not worked
    for bare, domains in ((True, ("math", "logic")), (False, ("code", "science"))):
        responses = [record.response for record in corpus.sft if record.domain in domains]
        found = sum(re.match(careless[bare], response) is not None for response in responses)
        assert 0.3 < found / len(responses) < 0.5


def test_no_problem_is_harder_than_asked_for():
    easy = generate(GeneratorSource(pretrain=5, sft=50, rl=50, preference=10, benchmark=8, max_level=1), seed=0)
    assert {record.level for record in (*easy.sft, *easy.rl, *easy.benchmarks["nano-logic"])} == {1}


@pytest.mark.parametrize("family", [*TAUGHT, *OPEN], ids=lambda family: family.name)
@pytest.mark.parametrize("level", range(1, 7))
def test_final_answers_agree_with_the_verifier(family, level):
    for seed in range(20):
        problem = family.make(level, random.Random(seed))
        if problem.verifier.kind == "code":
            namespace: dict = {}
            exec(problem.final, namespace)
            for test in problem.verifier.reference["tests"]:
                assert repr(eval(test["call"], namespace)) == test["result"]
        else:
            assert re.fullmatch(r"\\boxed\{(.+)\}", problem.final).group(1) == problem.verifier.reference["answer"]


def test_answers_agree_with_a_second_solver():
    """Solved a second way, so that a family cannot be wrong in the same way as its own answer."""
    from components.data.generator import math, science

    for family, pattern, solve in (
        (math.chain, r"m:(\d)((?:[a-l][+\-]\d)+)", _solve_chain),
        (math.extremes, r"x:(\d)((?:[a-l][<>]\d)+)", _solve_extremes),
        (science.motion, r"t:(\d)((?:[a-l][fb]\d)+)", _solve_motion),
    ):
        for seed in range(50):
            problem = family(1 + seed % 6, random.Random(seed))
            start, steps = re.fullmatch(pattern, problem.prompt).groups()
            assert problem.verifier.reference["answer"] == solve(start, steps)


def _solve_chain(start: str, steps: str) -> str:
    value, states = int(start), ""
    for step in re.findall(r"[+\-]\d", steps):
        value += int(step)
        states += str(value % 10)
    return states[-2:]


def _solve_extremes(start: str, steps: str) -> str:
    values = [int(start)]
    for operator, operand in re.findall(r"[a-l]([<>])(\d)", steps):
        pair = sorted((values[-1], int(operand)))
        values.append(pair[operator == ">"])
    return "".join(map(str, values[-2:]))


def _solve_motion(start: str, steps: str) -> str:
    position, places = int(start), ""
    for command, distance in re.findall(r"([fb])(\d)", steps):
        position += int(f"{'-' if command == 'b' else ''}{distance}")
        places += str(position % 10)
    return places[-2:]


def test_gold_preference_orders_the_pairs(corpus):
    for record in corpus.preference:
        reference = {"rubric": "reply", "name": record.prompt[0].content.removeprefix("h:").split(" ")[0]}
        assert gold(reference, record.chosen) > gold(reference, record.rejected)


def test_gold_preference_by_hand():
    reference = {"rubric": "reply", "name": "bob"}
    assert gold(reference, "<think></think>hello bob, the tea is here. thanks.") == pytest.approx(0.9)
    assert gold(reference, "<think></think>hello bob, thanks.") == 1.0
    assert gold(reference, "<think></think>yo!") == 0.0
    assert gold(reference, "") == 0.0


LANGUAGES = ("python", "c", "cpp", "javascript", "perl", "bash")


def test_open_code_in_many_languages_is_accepted_by_the_sandbox_and_its_neighbour_is_not():
    from components.model.tokenizer import load_tokenizer
    from components.rewards.scorer import open_scorer
    from components.rewards.types import RewardRequest
    from components.sandbox.languages import available_languages

    corpus = generate(
        GeneratorSource(pretrain=30, sft=60, rl=120, preference=0, benchmark=32, code_languages=LANGUAGES), seed=3
    )
    asked = [record for record in (*corpus.rl, *corpus.benchmarks["nano-code"]) if record.family == "fold"]
    assert {record.verifier.reference["language"] for record in asked} == set(LANGUAGES)
    tokenizer = load_tokenizer("nano")
    family, rng, requests, here = fold_in(LANGUAGES), random.Random(5), [], set(available_languages())
    seen: set[str] = set()
    while seen != set(LANGUAGES):
        problem = family.make(4, rng)
        language = problem.verifier.reference["language"]
        assert tokenizer.decode(tokenizer(problem.final)["input_ids"], skip_special_tokens=True) == problem.final
        if language in seen:
            continue
        seen.add(language)
        if language in here:
            shift = int(problem.final.rsplit("+", 1)[1].split(")")[0])
            wrong = problem.final.replace(f"+{shift})", f"+{(shift + 1) % 10})")
            assert wrong != problem.final
            requests += [RewardRequest("r", problem.prompt, f"</think>{text}", problem.verifier)
                         for text in (problem.final, wrong)]  # fmt: skip
    with open_scorer() as scorer:
        rewards = scorer.score(requests, deadline_s=10.0)
    assert [reward.value for reward in rewards] == [1.0, 0.0] * (len(requests) // 2), rewards
    assert len(requests) >= 6, f"fewer than three languages here: {here}"


def test_without_languages_open_code_stays_as_it_is():
    plain = GeneratorSource(pretrain=10, sft=10, rl=40, preference=0, benchmark=8)
    asked = [record for record in generate(plain, seed=3).rl if record.family == "fold"]
    assert all(record.verifier.reference["entry_point"] == "f" for record in asked)
