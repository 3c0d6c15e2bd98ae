"""What the data gates ask of the verifiers, of the real ones."""

from components.data.schema import Message, RlRecord, Verifier
from components.rewards.probes import RewardProbes


def test_answers_parse_or_do_not():
    with RewardProbes() as probes:
        found = probes.answers_parse(["7", "1/2", "50\\%", "blue whale", "\\frac{x+1}{2}"])
    assert found == [True] * 5


def test_solutions_are_run_on_their_tests():
    verifier = Verifier(kind="code", reference={"language": "python", "tests": [{"stdin": "2", "stdout": "4"}]})
    user = (Message(role="user", content="Double it."),)
    record = RlRecord(id="1", source="s", domain="code", family="f", prompt=user, verifier=verifier)
    programs = ("print(2 * int(input()))", "print(5)")
    with RewardProbes() as probes:
        records = [record.model_copy(update={"solution": program}) for program in programs]
        assert probes.solutions_accepted(records) == [True, False]
