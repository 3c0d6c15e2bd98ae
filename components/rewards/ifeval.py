"""The 25 constraint types of IFEval (arXiv 2311.07911), and three of ours.

They decide as the published checkers do, also where those are generous (a required keyword may stand inside a word),
because a score is only comparable when the rules are. Keywords are plain text here and regular expressions there: a
keyword with a dot means the dot. Letters that are no letters (`#`) count here; the published checker draws another.
"""

from __future__ import annotations

import json
import re

from components.rewards.english import language, sentences, tokens, words
from components.rewards.instruction import compare, constraint


def _occurrences(text: str, phrase: str) -> int:
    return len(re.findall(re.escape(phrase), text, re.IGNORECASE))


# ---- length


@constraint("length_constraints:number_words")
def number_words(text: str, relation: str, num_words: int) -> bool:
    return compare(len(words(text)), relation, num_words)


@constraint("length_constraints:number_sentences")
def number_sentences(text: str, relation: str, num_sentences: int) -> bool:
    return compare(len(sentences(text)), relation, num_sentences)


@constraint("length_constraints:number_paragraphs")
def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by `***`; an empty one between two dividers breaks the constraint."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


@constraint("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by an empty line. The first word ends at its first mark."""
    paragraphs = text.split("\n\n")
    filled = sum(bool(part.strip()) for part in paragraphs)
    if filled != num_paragraphs or not 1 <= nth_paragraph <= filled:
        return False
    opening = paragraphs[nth_paragraph - 1].split()
    if not opening:
        return False
    return re.split(r"[.,?!'\"]", opening[0].lstrip("'").lstrip('"'))[0].casefold() == first_word.casefold()


@constraint("ringflow:number_characters")
def number_characters(text: str, relation: str, num_characters: int) -> bool:
    return compare(len(text.strip()), relation, num_characters)


# ---- keywords


@constraint("keywords:existence")
def existence(text: str, keywords: list[str]) -> bool:
    return all(_occurrences(text, keyword) for keyword in keywords)


@constraint("keywords:frequency")
def frequency(text: str, relation: str, keyword: str, frequency: int) -> bool:
    return compare(_occurrences(text, keyword.strip()), relation, frequency)


@constraint("keywords:forbidden_words")
def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


@constraint("keywords:letter_frequency")
def letter_frequency(text: str, let_relation: str, letter: str, let_frequency: int) -> bool:
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


@constraint("ringflow:keywords_in_order")
def keywords_in_order(text: str, keywords: list[str]) -> bool:
    position, folded = 0, text.casefold()
    for keyword in keywords:
        found = folded.find(keyword.casefold(), position)
        if found < 0:
            return False
        position = found + len(keyword)
    return True


# ---- language and case


@constraint("language:response_language")
def response_language(text: str, language: str) -> bool:
    """A text without letters has no language and breaks nothing."""
    return _speaks(text, language)


@constraint("change_case:english_lowercase")
def lowercase(text: str) -> bool:
    return text.islower() and _speaks(text, "en")


@constraint("change_case:english_capital")
def uppercase(text: str) -> bool:
    return text.isupper() and _speaks(text, "en")


def _speaks(text: str, wanted: str) -> bool:
    found = language(text)
    return found is None or found == wanted.partition("-")[0]


@constraint("change_case:capital_word_frequency")
def capital_words(text: str, capital_relation: str, capital_frequency: int) -> bool:
    return compare(sum(token.isupper() for token in tokens(text)), capital_relation, capital_frequency)


# ---- punctuation, beginning and end


@constraint("punctuation:no_comma")
def no_comma(text: str) -> bool:
    return "," not in text


@constraint("startend:end_checker")
def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@constraint("ringflow:starts_with")
def starts_with(text: str, start_phrase: str) -> bool:
    return text.strip().casefold().startswith(start_phrase.strip().casefold())


@constraint("startend:quotation")
def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


# ---- combination


@constraint("combination:repeat_prompt")
def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@constraint("combination:two_responses")
def two_responses(text: str) -> bool:
    """Two different answers divided by six asterisks, which may also stand before and after."""
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    answers = [part.strip() for part in parts if part.strip()]
    return len(answers) == 2 and answers[0] != answers[1]


# ---- format and content


@constraint("detectable_format:number_bullet_lists")
def bullets(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


@constraint("detectable_format:number_highlighted_sections")
def highlights(text: str, num_highlights: int) -> bool:
    """Sections between single or double asterisks that are not blank."""
    single = [mark.strip("*") for mark in re.findall(r"\*[^\n\*]*\*", text)]
    double = [mark[2:-2] for mark in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(bool(mark.strip()) for mark in single + double) >= num_highlights


@constraint("detectable_format:multiple_sections")
def sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


@constraint("detectable_format:title")
def title(text: str) -> bool:
    """Between the first `<<` and the last `>>` of a line. No pattern: one would be slow on a line of `<`."""
    spans = ((line, line.find("<<"), line.rfind(">>")) for line in text.split("\n"))
    return any(0 <= begin < end - 2 and line[begin : end + 2].strip("<>").strip() for line, begin, end in spans)


@constraint("detectable_format:json_format")
def is_json(text: str) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
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
    """`[...]` on one line, the shortest from each opening bracket."""
    count = 0
    for line in text.split("\n"):
        begin = line.find("[")
        while begin >= 0 and (end := line.find("]", begin)) >= 0:
            count, begin = count + 1, line.find("[", end)
    return count >= num_placeholders


@constraint("detectable_content:postscript")
def postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(postscript_marker, re.escape(postscript_marker.lower())), text.lower()))
