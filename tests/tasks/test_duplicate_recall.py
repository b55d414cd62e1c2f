"""How many near duplicates are found, and how many are none: 5,000 documents beside all pairs by brute force.

The minima alone found 97.1% of the pairs from 0.8 on, and 3.9% of what they removed was below 0.8 (0.15% below 0.75):
an estimate from 128 of them has a standard error of 0.035. With the shingles compared it is all and none; the bounds
leave room for what a band misses and for documents longer than a sketch.
"""

import random
from collections import Counter, defaultdict
from itertools import accumulate, combinations
from pathlib import Path

import pytest

from llama2_core.data.dedup import shingles
from llama2_core.data.documents import Document
from storage.duplicates import SIGNATURES, find_duplicates
from storage.schemas import read_table, write_table
from tasks.corpus_groups import read_repeats, signature

VOCABULARY = [f"w{rank}" for rank in range(20_000)]
ZIPF = list(accumulate(1 / (rank + 1) for rank in range(len(VOCABULARY))))
DOCUMENTS, THRESHOLD = 5_000, 0.8
RATES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08)


def drawn_words(draws: random.Random, count: int) -> list[str]:
    return draws.choices(VOCABULARY, cum_weights=ZIPF, k=count)


def edited(words: list[str], rate: float, draws: random.Random) -> list[str]:
    """Replace, insert, delete or swap so many of the words."""
    words = list(words)
    for _ in range(max(1, round(rate * len(words)))):
        place, other = draws.randrange(len(words)), draws.randrange(len(words))
        match draws.choice(["replace", "insert", "delete", "swap"]):
            case "replace":
                words[place : place + 1] = drawn_words(draws, 1)
            case "insert":
                words[place:place] = drawn_words(draws, 1)
            case "delete":
                del words[place]
            case _:
                words[place], words[other] = words[other], words[place]
    return words


def texts_with_near_copies(draws: random.Random) -> list[str]:
    texts: list[list[str]] = []
    while len(texts) < DOCUMENTS:
        family = [drawn_words(draws, draws.randint(60, 600))]
        for _ in range(draws.choice([0, 0, 1, 1, 2, 3])):
            family.append(edited(draws.choice(family), draws.choice(RATES), draws))
        texts += family
    draws.shuffle(texts)
    return [" ".join(words) for words in texts[:DOCUMENTS]]


def similarities(texts: list[str]) -> dict[tuple[int, int], float]:
    """Return the Jaccard similarity of every (earlier, later) pair with a shingle in common."""
    sets = [set(shingles(text)) for text in texts]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for number, grams in enumerate(sets):
        for gram in grams:
            holders[gram].append(number)
    common = Counter(pair for numbers in holders.values() for pair in combinations(numbers, 2))
    return {(a, b): count / (len(sets[a]) + len(sets[b]) - count) for (a, b), count in common.items()}


@pytest.mark.slow
def test_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    texts = texts_with_near_copies(random.Random(0))
    similar = similarities(texts)
    spread = Counter(int(10 * value) for value in similar.values())
    assert all(spread[tenth] > 400 for tenth in range(5, 10))
    near = [pair for pair, value in similar.items() if value >= THRESHOLD]

    rows = [signature(n, Document(str(n), "made", text)) for n, text in enumerate(texts)]
    write_table(tmp_path / "signatures.parquet", rows, SIGNATURES)
    assert len(read_table(tmp_path / "signatures.parquet", SIGNATURES)) == DOCUMENTS
    found = tmp_path / "duplicates.parquet"
    find_duplicates([tmp_path / "signatures.parquet"], THRESHOLD, tmp_path / "spill", found)
    repeats = read_repeats(found, 0)
    gone = {row: int(repeat.kept_id or "") for row, repeat in repeats.items()}

    missed = [pair for pair in near if not gone.keys() & set(pair)]
    false = [kept for row, kept in gone.items() if similar.get((kept, row), 0) < THRESHOLD]
    assert len(near) > 1_500 and len(gone) > 1_000
    assert len(missed) <= 0.05 * len(near)
    assert len(false) <= 0.01 * len(gone)
    assert (
        not {gone[row] for row, repeat in repeats.items() if repeat.step == "near duplicates"} & gone.keys()
    )
