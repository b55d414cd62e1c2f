"""Tokens are words; a brute-force reading of the paper's definition is the judge."""

import pickle
import random
from collections.abc import Sequence

import pytest

from llama2_core.data.contamination import (
    ContaminationRules,
    Match,
    build_index,
    check_contamination,
    find_matches,
    sample_shares,
    tokens_of,
)
from llama2_core.data.documents import Document, Drop

RULES = ContaminationRules()
WORDS = [f"w{number}" for number in range(60)]
INDEX = build_index([("bench/0", " ".join(WORDS[:40])), ("bench/1", " ".join(WORDS[40:]))])


def changed(words: Sequence[str], places: Sequence[int]) -> list[str]:
    return [f"x{place}" if place in places else word for place, word in enumerate(words)]


def matches(words: Sequence[str], **rules: int) -> list[Match]:
    return list(find_matches(words, INDEX, ContaminationRules(**rules)))


def test_a_match_is_longer_than_ten_tokens():
    assert matches(["a", *WORDS[5:15], "b"]) == []
    assert matches(["a", *WORDS[5:16], "b"]) == [Match(0, 1, 12, 5)]
    assert matches(["a", *WORDS[5:16], "b"], min_tokens=12) == []


def test_four_skips_but_none_among_the_first_ten_tokens_nor_at_the_end():
    assert matches(changed(WORDS[:40], [10, 12, 20, 38]))[0] == Match(0, 0, 40, 0)
    assert matches(changed(WORDS[:40], [10, 12, 20, 30, 38]))[0] == Match(0, 0, 38, 0)
    assert matches(changed(WORDS[:40], [9])) == [Match(0, 10, 40, 10)]
    assert matches(changed(WORDS[:40], [38, 39])) == [Match(0, 0, 38, 0)]
    assert matches(changed(WORDS[:40], [12, 13]), skip_budget=1) == [Match(0, 0, 12, 0), Match(0, 14, 40, 14)]


def test_no_match_runs_over_from_one_sample_to_the_next():
    assert matches(WORDS[30:50]) == []
    assert matches(WORDS[29:51]) == [Match(0, 0, 11, 29), Match(1, 11, 22, 0)]


def test_shares_by_hand():
    found = matches([*WORDS[:11], "a", *WORDS[20:32], "b", *WORDS[5:17]])
    assert sample_shares(INDEX, found) == {"bench/0": (17 + 12) / 40}


def test_punctuation_case_and_white_space_hide_nothing():
    text = "Who wrote “Faust”, the play?\nGoethe: it took him sixty years, it's said."
    index = build_index([("nq/7", text)])
    copy = Document("a", "b", text.upper().replace(",", " --").replace("\n", "   "))
    assert check_contamination(copy, index, RULES) == Document("a", "b", copy.text, contamination=("nq/7",))
    assert tokens_of("我爱Llama 2!") == ["我", "爱", "llama", "2"]


def test_flag_or_drop_from_a_share_on():
    text = " ".join(["before", *WORDS[:16], "after"])  # 16 of 40
    document = Document("a", "b", text)
    assert check_contamination(document, INDEX, ContaminationRules(min_sample_share=0.41)) is document
    flagged = check_contamination(document, INDEX, ContaminationRules(min_sample_share=0.4))
    assert isinstance(flagged, Document) and flagged.contamination == ("bench/0",)
    drop = check_contamination(document, INDEX, ContaminationRules(min_sample_share=0.4, action="drop"))
    assert drop == Drop("benchmark text", "40% of bench/0, one of 1")


def test_empty_and_short_texts():
    empty = build_index([])
    assert list(find_matches(WORDS, empty, RULES)) == []
    assert list(find_matches([], INDEX, RULES)) == list(find_matches(WORDS[:5], INDEX, RULES)) == []
    assert list(find_matches(WORDS, build_index([("short", "a b c")]), RULES)) == []


def brute_force(document: Sequence[str], samples: Sequence[Sequence[str]], rules: ContaminationRules):
    """Return the shares straight from the definition: every pair of spans of every length."""
    held: dict[int, set[int]] = {}
    for number, sample in enumerate(samples):
        for i in range(len(sample)):
            for j in range(len(document)):
                for length in range(rules.min_tokens, min(len(sample) - i, len(document) - j) + 1):
                    a, b = sample[i : i + length], document[j : j + length]
                    skips = sum(x != y for x, y in zip(a, b, strict=True))
                    if a[:10] == b[:10] and a[-1] == b[-1] and skips <= rules.skip_budget:
                        held.setdefault(number, set()).update(range(i, i + length))
    return {str(number): len(places) / len(samples[number]) for number, places in held.items()}


@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force(seed):
    rng = random.Random(seed)
    samples = [rng.choices("ab", k=rng.randint(5, 30)) for _ in range(3)]
    copy = list(rng.choice(samples))
    for _ in range(rng.randint(0, 7)):
        copy[rng.randrange(len(copy))] = rng.choice("abz")
    document = [*rng.choices("ab", k=10), *copy, *rng.choices("abz", k=15)]
    rules = ContaminationRules(min_tokens=rng.choice([10, 11, 14, 20]), skip_budget=rng.choice([0, 1, 4]))
    index = pickle.loads(pickle.dumps(build_index((str(n), " ".join(s)) for n, s in enumerate(samples))))
    assert sample_shares(index, find_matches(document, index, rules)) == brute_force(document, samples, rules)


@pytest.mark.parametrize("changes", range(5))
def test_finds_planted_copies_with_up_to_four_changed_tokens(changes):
    """Of 54 tokens or more, four changes leave ten in a row untouched wherever they fall."""
    rng = random.Random(changes)
    vocabulary = [f"v{number}" for number in range(3000)]
    samples = [rng.choices(vocabulary, k=rng.randint(54, 90)) for _ in range(60)]
    index = build_index((str(number), " ".join(sample)) for number, sample in enumerate(samples))
    for number, sample in enumerate(samples):
        copy = changed(sample, rng.sample(range(len(sample)), changes))
        around = rng.choices(vocabulary, k=300)
        document = Document("a", "b", " ".join([*around[:150], *copy, *around[150:]]))
        verdict = check_contamination(document, index, ContaminationRules(min_sample_share=0.18))
        assert isinstance(verdict, Document) and verdict.contamination == (str(number),)
