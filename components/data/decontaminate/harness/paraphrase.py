"""Paraphrases by rule: other words, other sentence frames, other order of clauses; names and numbers stay.

The published paraphrases (made by language models) are a test set and tune nothing; these tune the thresholds. Rules
are deliberately blunt: every known word changes, so that no run of words long enough for n-grams survives.
"""

from __future__ import annotations

import random
import re

_GROUPS = """
buys/purchases/gets/acquires; buy/purchase/get/acquire; bought/purchased/got/acquired; sells/offers/trades;
sold/traded; makes/produces/prepares/creates; make/produce/prepare/create; made/produced/prepared/created;
needs/requires; need/require; wants/wishes/would like; want/wish/would like; has/owns/possesses; have/own/possess;
had/owned/possessed; gives/hands; gave/handed/passed; uses/employs/utilises; use/employ/utilise; used/employed;
eats/consumes; eat/consume; ate/consumed; total/overall/altogether; altogether/in total/all told; remaining/left over;
left/remaining; each/every; every/each; more/additional; many/numerous; find/determine/compute/calculate;
calculate/determine/compute; determine/find/work out; compute/evaluate/determine; evaluate/compute; show/demonstrate;
prove/show; children/kids; kids/children; friends/pals; mother/mom; father/dad; house/home; store/shop; shop/store;
money/cash; dollars/bucks; cost/price; costs/is priced at; pays/spends; pay/spend; paid/spent; spends/pays out;
spent/paid out; earns/makes; earn/make; earned/made; works/labours; day/date; week/seven-day period; year/twelve-month
period; hours/hrs; minutes/mins; weighs/has a weight of; tall/high; big/large; large/big; small/little; little/small;
new/fresh; fast/quick; start/begin; starts/begins; started/began; finish/complete; finishes/completes; takes/needs;
took/needed; then/afterwards; also/in addition; but/however; because/since; if/given that; after/following;
before/prior to; during/in the course of; between/among; about/roughly; people/persons; person/individual;
students/pupils; student/pupil; teacher/instructor; class/group; box/container; boxes/containers; bag/sack;
bags/sacks; car/vehicle; cars/vehicles; trip/journey; walks/strolls; walk/stroll; runs/jogs; drives/travels;
drive/travel; goes/heads; go/head; went/headed; reads/goes through; read/go through; book/volume; books/volumes;
game/match; games/matches; plays/takes part in; received/was given; receives/is given; collects/gathers;
collect/gather; collected/gathered; number/count; amount/quantity; integer/whole number; integers/whole numbers;
positive/greater than zero; value/quantity; function/mapping; write/implement; returns/gives back; return/give back;
string/text; list/sequence; given/supplied; array/list; element/entry; elements/entries; largest/biggest;
smallest/least; distinct/different; different/distinct; possible/conceivable; following/next; real/actual;
equation/relation; sum/total; product/result of multiplying; answer/response; please/kindly; provide/supply;
explain/describe; describe/explain; create/build; important/significant; should/ought to; must/has to; cannot/is not
able to; only/just; first/initially; last/final; same/identical; half/one half; twice/two times; decides/chooses;
wanted/wished; bakes/cooks; cooks/prepares; flowers/blossoms; animals/creatures; garden/yard; farm/ranch;
party/celebration; birthday/birth date; lunch/midday meal; dinner/evening meal; breakfast/morning meal; bottle/flask;
bottles/flasks; pieces/bits; piece/bit; picks/harvests
"""
_SYNONYMS: dict[str, list[str]] = {}
for _group in re.split(r"[;\n]", _GROUPS):
    _first, *_others = (word.strip() for word in _group.strip().split("/"))
    if _others:
        _SYNONYMS.setdefault(_first, []).extend(_others)

_FRAMES = [
    (r"\bHow many (\w+) (?:does|do|did|will|can|would) ([^?]+?) (have|need|make|sell|buy|get|eat|use|earn)\b([^?]*)\?",
     r"What is the number of \1 that \2 would \3\4?"),
    (r"\bHow many ([^?]+?) are (there|left)\b([^?]*)\?", r"What is the count of \1 \2\3?"),
    (r"\bHow many ([^?]+)\?", r"State the number of \1."),
    (r"\bHow much (?:money )?([^?]+)\?", r"What amount \1?"),
    (r"\bHow old ([^?]+)\?", r"What age \1?"),
    (r"\bHow long ([^?]+)\?", r"What length of time \1?"),
    (r"\bWhat is ([^?]+)\?", r"Determine \1."),
    (r"\bFind (?=the|all|a)", r"What can be said to be "),
    (r"\bWrite a (?:python )?function (?:that|to)\b", r"Implement a routine which should"),
]  # fmt: skip
_CLAUSE = re.compile(r"^(If|When|After|Before|On|In|At|During|For) ([^,]{4,80}), ([^.?]+)([.?])$", re.IGNORECASE)
_OWNER = re.compile(r"\b([A-Z][a-z]+)'s (\w+)\b")
_WORD = re.compile(r"(?<![\\$\w])[A-Za-z]+(?![\w$])")
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"$\\])")


def paraphrase(text: str, draw: random.Random) -> str:
    """The text in other words; numbers, names and formulas as they were."""
    sentences = [_reframe(sentence, draw) for sentence in _SENTENCE.split(text.strip())]
    return _WORD.sub(lambda found: _other_word(found.group(), draw), " ".join(sentences))


def _reframe(sentence: str, draw: random.Random) -> str:
    for pattern, frame in _FRAMES:
        changed, count = re.subn(pattern, frame, sentence, count=1)
        if count:
            sentence = changed
            break
    moved = _CLAUSE.match(sentence)
    if moved and "$" not in moved.group(2):
        first, clause, rest, end = moved.groups()
        sentence = f"{rest[0].upper()}{rest[1:]} {first.lower()} {clause}{end}"
    return _OWNER.sub(r"the \2 of \1", sentence) if draw.random() < 0.7 else sentence


def _other_word(word: str, draw: random.Random) -> str:
    others = _SYNONYMS.get(word.lower())
    if not others:
        return word
    other = draw.choice(others)
    return other[0].upper() + other[1:] if word[0].isupper() else other
