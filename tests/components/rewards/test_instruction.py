"""Verifiable instructions: every type kept and broken by hand, every published prompt accepted, hostile texts cheap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.failures import BadInput
from components.rewards.instruction import CONSTRAINTS, UNSUPPORTED, failed_constraints, loose_variants
from tests.components.rewards.instructions import IFBENCH, IFEVAL, OURS

BENCHMARKS = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"


def failed(name: str, arguments: dict, text: str, mode: str = "strict") -> list[str]:
    return failed_constraints(text, {"constraints": [{"id": name, "arguments": arguments}]}, mode)


@pytest.mark.parametrize(("name", "arguments", "keeps", "breaks"), [*IFEVAL, *IFBENCH, *OURS])
def test_kept_and_broken(name, arguments, keeps, breaks):
    assert failed(name, arguments, keeps) == []
    assert failed(name, arguments, breaks) == [name]


def test_every_type_is_in_the_table():
    assert len({name for name, *_ in IFEVAL}) == 25
    assert {name for name, *_ in (*IFEVAL, *IFBENCH, *OURS)} == set(CONSTRAINTS)
    assert len({name for name, *_ in IFBENCH}) + len(UNSUPPORTED) == 58


def published(name: str) -> list[dict]:
    path = BENCHMARKS / name
    if not path.exists():
        pytest.skip(f"{name} is not here: ../shared/data is absent")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("name", "prompts"), [("ifeval.jsonl", 541), ("ifbench_test.jsonl", 300)])
def test_every_published_prompt_is_accepted(name, prompts):
    rows = published(name)
    assert len(rows) == prompts
    refused = set()
    for row in rows:
        for one, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if one in UNSUPPORTED:
                refused.add(one)
                with pytest.raises(BadInput, match="not supported"):
                    failed(one, arguments, "text")
            else:
                assert failed(one, arguments, "Some text.") in ([], [one])
    assert refused == (set(UNSUPPORTED) if "ifbench" in name else set())


def test_an_empty_text_keeps_nothing_and_unknown_things_are_bad_input():
    assert failed("punctuation:no_comma", {}, " \n") == ["punctuation:no_comma"]
    for name, arguments, mode in (
        ("punctuation:no_semicolon", {}, "strict"),
        ("punctuation:no_comma", {"x": 1}, "strict"),
        ("keywords:existence", {}, "strict"),
        ("length_constraints:number_words", {"relation": "around", "num_words": 3}, "strict"),
        ("punctuation:no_comma", {}, "lenient"),
    ):
        with pytest.raises(BadInput, match=r"verifier\.reference"):
            failed(name, arguments, "text", mode)


def test_loose_forgives_the_first_line_the_last_line_and_asterisks():
    assert len(loose_variants("a\nb\nc")) == 8
    for text in ("Sure, here it is:\nno comma", "no comma\nHope that helps, bye", "Sure, here:\nno comma\nOk, bye"):
        assert failed("punctuation:no_comma", {}, text) == ["punctuation:no_comma"]
        assert failed("punctuation:no_comma", {}, text, "loose") == []
    ending = {"end_phrase": "the end"}
    assert failed("startend:end_checker", ending, "**the end**", "loose") == []
    assert failed("punctuation:no_comma", {}, "a,\nb,\nc,", "loose") == ["punctuation:no_comma"]


def test_a_language_for_every_published_prompt():
    said = {
        "de": "Der Hund schläft im Garten, während die Kinder spielen.",
        "ru": "Собака спит в саду, пока дети играют.",
        "it": "Il cane dorme nel giardino mentre i bambini giocano con la palla.",
        "pt": "O cachorro dorme no jardim enquanto as crianças não estão brincando.",
        "fi": "Koira nukkuu puutarhassa, kun lapset leikkivät.",
        "sw": "Mbwa analala kwenye bustani wakati watoto wanacheza mpira.",
        "vi": "Con chó ngủ trong vườn trong khi bọn trẻ chơi đùa.",
        "ko": "아이들이 노는 동안 개는 정원에서 잔다.",
        "th": "สุนัขนอนอยู่ในสวนขณะที่เด็ก ๆ เล่นกัน",
        "ar": "ينام الكلب في الحديقة بينما يلعب الأطفال.",
        "ta": "குழந்தைகள் விளையாடும்போது நாய் தோட்டத்தில் தூங்குகிறது.",
        "te": "పిల్లలు ఆడుకుంటుండగా కుక్క తోటలో నిద్రపోతోంది.",
        "bn": "শিশুরা খেলার সময় কুকুরটি বাগানে ঘুমায়।",
        "gu": "બાળકો રમે છે ત્યારે કૂતરો બગીચામાં સૂઈ જાય છે.",
        "kn": "ಮಕ್ಕಳು ಆಡುತ್ತಿರುವಾಗ ನಾಯಿ ತೋಟದಲ್ಲಿ ಮಲಗುತ್ತದೆ.",
        "pa": "ਜਦੋਂ ਬੱਚੇ ਖੇਡਦੇ ਹਨ ਤਾਂ ਕੁੱਤਾ ਬਾਗ ਵਿੱਚ ਸੌਂਦਾ ਹੈ।",
        "fa": "در حالی که بچه‌ها بازی می‌کنند، سگ در باغ می‌خوابد.",
        "hi": "जब बच्चे खेलते हैं तब कुत्ता बगीचे में सोता है।",
        "bg": "Кучето спи в градината, докато децата си играят.",
    }
    wrong = {code for code, text in said.items() if failed("language:response_language", {"language": code}, text)}
    assert not wrong
    assert all(failed("language:response_language", {"language": "en"}, text) for text in said.values())


@pytest.mark.timeout(300)
def test_no_text_makes_a_check_slow():
    """Lines of one character are what patterns choke on: a check that does takes hours for one of these."""
    hostile = ["<" * 100_000, "[" * 100_000, "*" * 100_000, "(" * 100_000, "a." * 50_000, "1. " * 30_000, "'" * 100_000]
    for text in hostile:
        for name, arguments, *_ in (*IFEVAL, *IFBENCH):
            if "language" not in name and "english" not in name:
                failed(name, arguments, text)
