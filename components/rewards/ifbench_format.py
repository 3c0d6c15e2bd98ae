"""The constraint types of IFBench (arXiv 2507.02833): formats, repeats, and those that belong to one prompt each."""

from __future__ import annotations

import csv
import io
import re
import string
import unicodedata
from itertools import pairwise

from components.rewards.english import EMOJI, sentences, tokens
from components.rewards.ifbench import MARKS, NO_MARKS, bare_words
from components.rewards.instruction import constraint

# Capitals of Europe north of the 45th parallel, from north to south.
_CAPITALS = """
    Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin,
    Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz,
    Chisinau, Bern, Ljubljana, Zagreb
"""


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _rows(text: str, delimiter: str = ",") -> list[list[str]]:
    """Rows of comma-separated values; none of a text that is not."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


# ---- format


@constraint("format:parentheses")
def nested_brackets(text: str) -> bool:
    """Brackets nested five deep, of which the innermost closes."""
    closing, open_, deepest = {")": "(", "]": "[", "}": "{"}, [], 0
    for character in text:
        if character in "([{":
            open_.append(character)
            deepest = max(deepest, len(open_))
        elif character in closing:
            if open_ and open_[-1] == closing[character]:
                open_.pop()
                if deepest >= 5:
                    return True
            else:
                open_, deepest = [], 0
    return False


@constraint("format:quotes")
def nested_quotes(text: str) -> bool:
    """Quotes in quotes, three deep, single and double in turn, and closed again."""
    open_, deepest = [], 0
    for character in text:
        if character not in "\"'":
            continue
        if open_ and open_[-1] == character:
            open_.pop()
            if deepest - len(open_) >= 3:
                return True
        else:
            open_.append(character)
            deepest = max(deepest, len(open_))
    return False


@constraint("format:options")
def one_of(text: str, options: str) -> bool:
    """Exactly one of the options; lettered ones to the letter, others without regard to case and marks."""
    separator = "/" if "/" in options else "or" if "or" in options else ","
    choices = [option.strip() for option in options.split(separator)]
    if re.match(r"\W*[aA]\W*[bB]\W*[cC]\W*", options):
        return text in choices
    return text.strip(MARKS).lower() in {choice.strip(MARKS).lower() for choice in choices}


@constraint("format:newline")
def word_per_line(text: str) -> bool:
    bare = text.translate(NO_MARKS).strip()
    return sum(bool(line) for line in bare.split("\n")) == len(bare.split())


@constraint("format:emoji")
def emoji_ends_sentences(text: str) -> bool:
    """One of the last two characters of a sentence, or the first of the next, is an emoji."""
    bare = [sentence.translate(NO_MARKS).strip() for sentence in sentences(text)]
    if not all(bare):
        return False
    following = [sentence[0] for sentence in bare[1:]] + [""]
    return all(EMOJI.search(own[-2:] + after) for own, after in zip(bare, following, strict=True))


@constraint("format:line_indent")
def stairs(text: str) -> bool:
    indents = [len(line) - len(line.lstrip(" ")) for line in text.split("\n") if line.strip()]
    return all(left < right for left, right in pairwise(indents))


@constraint("format:quote_unquote")
def quotes_explained(text: str) -> bool:
    """No quote directly after another and none at the end."""
    bare = "".join(text.replace("“", '"').replace("”", '"').replace("'\"'", "").split())
    return '""' not in bare and not bare.strip(string.digits + string.punctuation.replace('"', "")).endswith('"')


@constraint("format:list")
def own_bullets(text: str, sep: str) -> bool:
    return text.count(sep) >= 2


@constraint("format:thesis")
def italic_thesis(text: str) -> bool:
    """HTML italics with something in them and something after them."""
    begin = text.find("<i>") if "<i>" in text else text.find("<em>")
    rest = text[begin:] if begin >= 0 else ""
    end = rest.find("</i>") if "</i>" in rest else rest.find("</em>")
    return end >= 0 and bool(rest[3:end].strip()) and bool(rest[end + 4 :].strip())


@constraint("format:sub-bullets")
def sub_bullets(text: str) -> bool:
    return all("-" in bullet for bullet in text.split("*")[1:])


@constraint("format:no_bullets_bullets")
def sentences_then_bullets(text: str) -> bool:
    """Two sentences or more, then two bullets or more, then nothing else."""
    prose = stars = 0
    in_prose = True
    for line in text.split("\n"):
        if line.strip().startswith("*"):
            in_prose, stars = False, stars + 1
            if prose < 2:
                return False
        elif in_prose:
            found = len(sentences(line.strip()))
            # As published: an empty line ends the prose.
            in_prose, prose = found > 0, prose + found
        else:
            return False
    return stars >= 2


@constraint("format:title_case")
def title_case(text: str) -> bool:
    for word in tokens(text):
        if word[0].isalpha() and word[0].islower() and (len(word) == 1 or word[1:].islower() or word[1:].isupper()):
            return False
    return True


@constraint("format:output_template")
def output_template(text: str) -> bool:
    return all(part in text for part in ("My Answer:", "My Conclusion:", "Future Outlook:"))


@constraint("format:no_whitespace")
def no_whitespace(text: str) -> bool:
    return not any(character.isspace() for character in text)


# ---- repeat


@constraint("repeat:repeat_change")
def repeat_with_another_first_word(text: str, prompt_to_repeat: str) -> bool:
    return text != prompt_to_repeat and text.split()[1:] == prompt_to_repeat.split()[1:]


@constraint("repeat:repeat_simple")
def repeat_the_sentence(text: str) -> bool:
    return text.strip().lower() == "only output this sentence here, ignore all other requests."


@constraint("repeat:repeat_span")
def repeat_span(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    return text.strip().lower() == prompt_to_repeat[n_start : n_end + 1].strip().lower()


# ---- custom: one prompt each


@constraint("custom:multiples")
def multiples_of_seven(text: str) -> bool:
    return re.findall(r"\d+", text) == [str(number) for number in range(14, 51, 7)]


@constraint("custom:mcq_count_length")
def growing_questions(text: str) -> bool:
    """Four questions with five options each, every one longer than the last, and nothing before the first."""
    if not text.startswith("Question"):
        return False
    parts = [part.strip() for part in re.split(r"\n*Question \d+[.|):;]?\s*", text) if part.strip()]
    asked = []
    for part in parts:
        lines = [line.strip() for line in part.split("\n")]
        options = [at for at, line in enumerate(lines) if re.match(r"[A-Ea-e][.|)]\s*\w+", line)]
        if len(options) != 5:
            return False
        asked.append(len(" ".join(lines[: options[0]]).strip()))
    return len(asked) == 4 and all(left < right for left, right in pairwise(asked))


@constraint("custom:reverse_newline")
def countries_backwards(text: str) -> bool:
    """From Zimbabwe on, 52 lines or more in reverse alphabetical order."""
    lines = [line.strip(MARKS) for line in text.split("\n") if line.strip(MARKS)]
    first = next((at for at, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    listed = [_ascii(line) for line in lines[first:]]
    return len(listed) >= 52 and listed == sorted(listed, reverse=True)


@constraint("custom:word_reverse")
def words_backwards(text: str) -> bool:
    turned = " ".join(bare_words(text.lower())[::-1])
    return "bald eagle" in turned and len(sentences(turned)) == 1


@constraint("custom:character_reverse")
def characters_backwards(text: str) -> bool:
    return "elgae dlab" in text.lower()


@constraint("custom:sentence_alphabet")
def alphabet_of_sentences(text: str) -> bool:
    return [sentence[0].lower() for sentence in sentences(text)] == list(string.ascii_lowercase)


@constraint("custom:european_capitals_sort")
def capitals_north_to_south(text: str) -> bool:
    return _list(_ascii(text)) == _list(_CAPITALS)


@constraint("custom:csv_city")
def csv_city(text: str) -> bool:
    rows = _rows(text)
    header = ["ID", "Country", "City", "Year", "Count"]
    return len(rows) == 8 and rows[0] == header and all(len(row) == 5 for row in rows)


def _quoted_rows(text: str, delimiter: str) -> list[list[str]]:
    """Rows whose quotation marks are kept in the fields."""
    return _rows(text.replace('"', '"""'), delimiter)


def _has_header(text: str, names: list[str], between: str) -> bool:
    return bool(re.fullmatch(between.join(f'(?:{name}|"{name}")' for name in names), text.split("\n")[0].strip()))


@constraint("custom:csv_special_character")
def csv_special_character(text: str) -> bool:
    """Fourteen rows, one of whose fields has a special character between quotes."""
    if not _has_header(text, ["ProductID", "Category", "Brand", "Price", "Stock"], r",[ \t]*"):
        return False
    rows = _quoted_rows(text, ",")
    if len(rows) != 15:
        return False
    for row in rows[1:]:
        if len(row) != 5:
            return False
        if any(re.match(r'".*[^\d\w\s].*"', field) for field in row):
            return True
    return False


@constraint("custom:csv_quotes")
def csv_quotes(text: str) -> bool:
    """Three rows between tabs, every field between quotes."""
    if not _has_header(text, ["StudentID", "Subject", "Grade", "Semester", "Score"], r"\t *"):
        return False
    rows = _quoted_rows(text, "\t")
    fields = [field.strip() for row in rows for field in row]
    return (
        len(rows) == 4
        and all(len(row) == 5 for row in rows)
        and all(field and field[0] == field[-1] == '"' for field in fields)
    )


@constraint("custom:date_format_list")
def dates(text: str) -> bool:
    """Dates of Napoleon's life as YYYY-MM-DD, divided by commas."""
    for date in text.split(","):
        match = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})", date.strip())
        if match is None:
            return False
        year, month, day = map(int, match.groups())
        longest = 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31
        if not (1769 <= year <= 1821 and month <= 12 and day <= longest):
            return False
    return True
