"""The constraint types of IFBench (arXiv 2507.02833), which generalise IFEval's: counts, ratios, words, sentences.

They decide as the published checkers do; see components.rewards.instruction for the two that are refused. `N` and
`small_n` are the benchmark's own names of arguments.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from itertools import pairwise

from components.rewards.english import count_stop_words, sentences, tokens, word_set, words
from components.rewards.instruction import constraint

MARKS = string.punctuation + " "
NO_MARKS = str.maketrans("", "", string.punctuation)
_NAMES = word_set(
    """
    Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia
    Benjamin Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett
    Nathan Victoria Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria
    Joseph Claire Ryan Stella Jonathan
    """
)
_PRONOUNS = word_set(
    """
    i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself
    ourselves yourself yourselves himself herself itself themselves this that these those who whom whose which
    what whoever whomever whatever whichever anybody anyone anything everybody everyone everything nobody
    nothing somebody someone something each either neither both all some any none
    """
)
_CONJUNCTIONS = frozenset({"and", "but", "for", "nor", "or", "so", "yet"})


def bare_words(text: str) -> list[str]:
    """The words of a text without its punctuation."""
    return text.translate(NO_MARKS).split()


# ---- count


@constraint("count:word_count_range")
def word_count_range(text: str, min_words: float, max_words: float) -> bool:
    return min_words <= len(words(text)) <= max_words


@constraint("count:unique_word_count")
def unique_words(text: str, N: float) -> bool:
    return len({word.strip(MARKS) for word in text.lower().split()}) >= N


@constraint("count:conjunctions")
def conjunctions(text: str, small_n: float) -> bool:
    return len({word for word in text.split() if word.strip(MARKS).lower() in _CONJUNCTIONS}) >= small_n


@constraint("count:person_names")
def person_names(text: str, N: float) -> bool:
    return len(_NAMES.intersection(words(text))) >= N


@constraint("count:numbers")
def numbers(text: str, N: float) -> bool:
    return len(re.findall(r"\d+", text.translate(NO_MARKS))) == N


@constraint("count:punctuation")
def every_mark(text: str) -> bool:
    """Every standard mark, and an interrobang that is not counted for its parts."""
    if not any(mark in text for mark in ("!?", "?!", "‽")):
        return False
    rest = text.replace("?!", "", 1) if "?!" in text else text.replace("!?", "", 1)
    return set(".,!?;:") <= set(rest)


@constraint("count:pronouns")
def pronouns(text: str, N: float) -> bool:
    return sum(token in _PRONOUNS for token in tokens(text.lower().replace("/", " "))) >= N


@constraint("count:words_japanese")
def japanese(text: str, N: float) -> bool:
    """Every Nth word has a Japanese character, unless it is a number."""
    every = [word.strip(MARKS) for word in text.split()][int(N) - 1 :: int(N)]
    return all(re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", word) for word in every if word and not word.isdigit())


@constraint("count:keywords_multiple")
def keywords_multiple(text: str, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    wanted = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(text.lower().count(keyword.strip().lower()) == count for keyword, count in wanted)


# ---- ratio


@constraint("ratio:stop_words")
def stop_words(text: str, percentage: float) -> bool:
    total = len(words(text))
    return bool(total) and 100 * count_stop_words(text) / total <= percentage


def _kinds(text: str) -> tuple[int, int, int]:
    found = Counter(sentence[-1] for sentence in sentences(text))
    return found["."], found["?"], found["!"]


@constraint("ratio:sentence_type")
def two_to_one(text: str) -> bool:
    declarative, interrogative, _ = _kinds(text)
    return declarative == 2 * interrogative


@constraint("ratio:sentence_balance")
def balanced(text: str) -> bool:
    return len(set(_kinds(text))) == 1


@constraint("ratio:sentence_words")
def three_equal_sentences(text: str) -> bool:
    found = sentences(text)
    return len(found) == 3 and len(set(map(len, found))) == 1


@constraint("ratio:overlap")
def overlap(text: str, reference_text: str, percentage: float) -> bool:
    """Character trigrams of the text that the reference has, within two per cent."""
    own, other = ({whole[at : at + 3] for at in range(len(whole) - 2)} for whole in (text, reference_text))
    return bool(own) and abs(100 * len(own & other) / len(own) - percentage) <= 2


# ---- words


@constraint("words:alphabet")
def alphabet_loop(text: str) -> bool:
    """Each word begins with the next letter, z followed by a."""
    letters = [word[0].lower() for word in bare_words(text)]
    if not letters or letters[0] not in string.ascii_lowercase:
        return False
    return all(letter == chr(97 + (ord(letters[0]) - 97 + at) % 26) for at, letter in enumerate(letters))


@constraint("words:vowel")
def three_vowels(text: str) -> bool:
    return "\n" not in text.strip() and len(set("aeiou") & set(text.lower())) <= 3


@constraint("words:consonants")
def consonant_clusters(text: str) -> bool:
    return all(re.search(r"[bcdfghj-np-tv-z]{2}", word) for word in text.lower().split())


@constraint("words:palindrome")
def palindromes(text: str) -> bool:
    return sum(len(word) >= 5 and word == word[::-1] for word in bare_words(text.lower())) >= 10


@constraint("words:prime_lengths")
def prime_lengths(text: str) -> bool:
    lengths = {len(word) for word in bare_words(text)}
    return all(1 < n < 98 and all(n % divisor for divisor in range(2, int(n**0.5) + 1)) for n in lengths)


@constraint("words:repeats")
def few_repeats(text: str, small_n: float) -> bool:
    return max(Counter(bare_words(text.lower())).values(), default=0) <= small_n


@constraint("words:no_consecutive")
def no_consecutive_letters(text: str) -> bool:
    return all(left[0] != right[0] for left, right in pairwise(bare_words(text.lower())))


@constraint("words:last_first")
def last_word_first(text: str) -> bool:
    """The last word of each sentence is the first of the next."""
    for left, right in pairwise(sentences(text)):
        last, first = left.rstrip(MARKS).split(), right.lstrip(MARKS).split()
        if not last or not first or last[-1].lower() != first[0].lower():
            return False
    return True


@constraint("words:paragraph_last_first")
def paragraph_ends_as_it_began(text: str) -> bool:
    paragraphs = (part.strip().lower().strip(MARKS).split() for part in text.split("\n"))
    return all(not part or part[0] == part[-1] for part in paragraphs)


@constraint("words:keywords_specific_position")
def keyword_at(text: str, keyword: str, n: float, m: float) -> bool:
    """The m-th word of the n-th sentence."""
    found = sentences(text)
    if len(found) < n:
        return False
    own = [token for token in tokens(found[int(n) - 1]) if any(character.isalnum() for character in token)]
    return len(own) >= m and own[int(m) - 1].lower() == keyword.strip().lower()


@constraint("words:words_position")
def second_and_second_to_last(text: str, keyword: str) -> bool:
    found = tokens(text)
    if len(found) > 1 and found[-1] in string.punctuation:
        found = found[:-1]
    return len(found) > 1 and found[1].lower() == found[-2].lower() == keyword.strip().lower()


# ---- sentence


@constraint("sentence:alliteration_increment")
def growing_alliteration(text: str) -> bool:
    """Each sentence has more words in alliterating runs than the one before."""
    last = -1
    for sentence in sentences(text):
        opening = [clean[0] for word in sentence.lower().split() if (clean := word.lstrip(MARKS))]
        count = running = 0
        for left, right in pairwise(opening):
            count += (1 if running else 2) if left == right else 0
            running = left == right
        if count <= last:
            return False
        last = count
    return True


@constraint("sentence:increment")
def growing_sentences(text: str, small_n: float) -> bool:
    lengths = [len(bare_words(sentence)) for sentence in sentences(text)]
    return all(right == left + small_n for left, right in pairwise(lengths))


@constraint("sentence:keyword")
def keyword_in_sentence(text: str, word: str, N: float) -> bool:
    found = sentences(text)
    return len(found) >= N and bool(re.search(rf"\b{re.escape(word)}\b", found[int(N) - 1], re.IGNORECASE))
