"""Verifiable instructions: each constraint is a small pure predicate on the text after the reasoning.

Names and arguments are those of IFEval (arXiv 2311.07911), so its prompts can be used as they are; the `ringflow:` rows
are ours. reference: {"constraints": [{"id": str, "arguments": {...}}]}. All must hold. `language:response_language`
needs a language detector and is not among them: an unknown id is bad input, never a failed constraint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from components.failures import BadInput

Constraint = Callable[..., bool]

CONSTRAINTS: dict[str, Constraint] = {}


def constraint(name: str) -> Callable[[Constraint], Constraint]:
    def add(check: Constraint) -> Constraint:
        CONSTRAINTS[name] = check
        return check

    return add


def failed_constraints(text: str, reference: Mapping[str, Any]) -> list[str]:
    """Ids of the constraints that the text breaks.

    Raises:
        BadInput: no constraints, an unknown id, or arguments it does not take.
    """
    constraints = reference.get("constraints") or ()
    if not constraints:
        raise BadInput("no constraints", where="verifier.reference.constraints")
    failed = []
    for position, row in enumerate(constraints):
        where = f"verifier.reference.constraints[{position}]"
        check = CONSTRAINTS.get(row.get("id"))
        if check is None:
            raise BadInput(f"unknown constraint {row.get('id')!r}", where=where, remedy=f"Known: {sorted(CONSTRAINTS)}")
        arguments = {key: value for key, value in (row.get("arguments") or {}).items() if value is not None}
        try:
            held = check(text, **arguments)
        except (TypeError, ValueError, KeyError) as error:
            raise BadInput(f"{row['id']} does not take {arguments}: {error}", where=where) from error
        if not (held and text.strip()):
            failed.append(row["id"])
    return failed


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in ("at least", "less than", "at most", "exactly"):
        raise ValueError(f"unknown relation {relation!r}")
    return {
        "at least": count >= bound,
        "less than": count < bound,
        "at most": count <= bound,
        "exactly": count == bound,
    }[relation]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _occurrences(text: str, phrase: str) -> int:
    return len(re.findall(re.escape(phrase), text, re.IGNORECASE))


@constraint("length_constraints:number_words")
def number_words(text: str, relation: str, num_words: int) -> bool:
    return _compare(len(_words(text)), relation, num_words)


@constraint("length_constraints:number_sentences")
def number_sentences(text: str, relation: str, num_sentences: int) -> bool:
    sentences = [part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()) if re.search(r"\w", part)]
    return _compare(len(sentences), relation, num_sentences)


@constraint("length_constraints:number_paragraphs")
def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    return len([part for part in re.split(r"\s?\*\*\*\s?", text.strip()) if part.strip()]) == num_paragraphs


@constraint("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = [part.strip() for part in re.split(r"\n\n", text) if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > len(paragraphs):
        return False
    words = paragraphs[nth_paragraph - 1].split()
    return bool(words) and words[0].strip("\"'.,?!").casefold() == first_word.casefold()


@constraint("ringflow:number_characters")
def number_characters(text: str, relation: str, num_characters: int) -> bool:
    return _compare(len(text.strip()), relation, num_characters)


@constraint("keywords:existence")
def existence(text: str, keywords: list[str]) -> bool:
    return all(_occurrences(text, keyword) for keyword in keywords)


@constraint("keywords:frequency")
def frequency(text: str, relation: str, keyword: str, frequency: int) -> bool:
    return _compare(_occurrences(text, keyword), relation, frequency)


@constraint("keywords:forbidden_words")
def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


@constraint("keywords:letter_frequency")
def letter_frequency(text: str, let_relation: str, letter: str, let_frequency: int) -> bool:
    return _compare(text.casefold().count(letter.casefold()), let_relation, let_frequency)


@constraint("ringflow:keywords_in_order")
def keywords_in_order(text: str, keywords: list[str]) -> bool:
    position, folded = 0, text.casefold()
    for keyword in keywords:
        found = folded.find(keyword.casefold(), position)
        if found < 0:
            return False
        position = found + len(keyword)
    return True


@constraint("change_case:english_lowercase")
def lowercase(text: str) -> bool:
    return text == text.lower() and any(character.isalpha() for character in text)


@constraint("change_case:english_capital")
def uppercase(text: str) -> bool:
    return text == text.upper() and any(character.isalpha() for character in text)


@constraint("change_case:capital_word_frequency")
def capital_words(text: str, capital_relation: str, capital_frequency: int) -> bool:
    return _compare(sum(word.isupper() for word in _words(text)), capital_relation, capital_frequency)


@constraint("punctuation:no_comma")
def no_comma(text: str) -> bool:
    return "," not in text


@constraint("startend:end_checker")
def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


@constraint("ringflow:starts_with")
def starts_with(text: str, start_phrase: str) -> bool:
    return text.strip().casefold().startswith(start_phrase.strip().casefold())


@constraint("startend:quotation")
def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@constraint("combination:repeat_prompt")
def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


@constraint("combination:two_responses")
def two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


@constraint("detectable_format:number_bullet_lists")
def bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*]|-).*$", text, re.MULTILINE)) == num_bullets


@constraint("detectable_format:number_highlighted_sections")
def highlights(text: str, num_highlights: int) -> bool:
    marks = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(mark.strip("*").strip()) for mark in marks) >= num_highlights


@constraint("detectable_format:multiple_sections")
def sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


@constraint("detectable_format:title")
def title(text: str) -> bool:
    return any(part.strip("<>").strip() for part in re.findall(r"<<[^\n]+>>", text))


@constraint("detectable_format:json_format")
def is_json(text: str) -> bool:
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@constraint("detectable_format:constrained_response")
def constrained(text: str) -> bool:
    return any(option in text for option in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


@constraint("detectable_content:number_placeholders")
def placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


@constraint("detectable_content:postscript")
def postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(postscript_marker, rf"\s*{re.escape(postscript_marker.casefold())}.*$")
    return bool(re.search(pattern, text.casefold(), re.MULTILINE))
