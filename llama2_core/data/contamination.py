"""Which benchmark samples a document repeats: token n-grams with a budget of skips. Llama 2 appendix A.6.

The paper's match: the same span in a sample and in the training set, longer than 10 tokens, differing in at most 4
places, none of them among its first 10 tokens nor the last. The paper scores *samples*, by the share of their tokens
within a match anywhere in the training set; here *documents* are flagged, by the share that each of them alone holds
of a sample. Tokens are lower-case words instead of the model's, so that punctuation and white space hide no copy: 10
of them are about 13 of Llama 2's.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama2_core.config import Natural, Positive, Record, Share
from llama2_core.data.documents import Document, Drop, Verdict, has_characters_as_words

EXACT_TOKENS = 10
"""Tokens at the start of a match that must be the same."""


class ContaminationRules(Record):
    """When a document counts as holding benchmark text. Llama 2 appendix A.6."""

    min_tokens: Positive = EXACT_TOKENS + 1
    """Shortest match. Llama 2 A.6: longer than 10; also tried 20, 30, 40 and 50."""
    skip_budget: Natural = 4
    """Most places in which a match may differ. Llama 2 A.6: 4."""
    min_sample_share: Share = 0.2
    """Smallest share of a sample's tokens within matches. Llama 2 A.6: clean is below 0.2, dirty from 0.8 on."""
    action: Literal["flag", "drop"] = "flag"
    """Note the samples in the document, or drop it. The paper only measures."""


class Match(NamedTuple):
    """Tokens [start, end) of a document are those of a sample from `sample_start` on, but for the skips."""

    sample: int
    start: int
    end: int
    sample_start: int


@dataclass(frozen=True)
class ContaminationIndex:
    """All samples' tokens end to end, and where every 10 of them stand: a few arrays that travel to workers."""

    names: tuple[str, ...]
    vocabulary: dict[str, int]
    tokens: NDArray[np.int32]
    bounds: NDArray[np.int64]
    """Where each sample begins, then where the last ends."""
    hashes: NDArray[np.uint32]
    """Of each 10 tokens of one sample, sorted."""
    places: NDArray[np.int32]
    """Where those 10 begin in `tokens`."""


def build_index(samples: Iterable[tuple[str, str]]) -> ContaminationIndex:
    """Index (name, text) pairs; a text is prompt and answer as the model reads them ("fully verbalised", A.6).

    A sample of fewer than 11 tokens is never found.
    """
    vocabulary: dict[str, int] = {}
    names, tokens, bounds = [], [], [0]
    for name, text in samples:
        names.append(name)
        tokens += [vocabulary.setdefault(token, len(vocabulary)) for token in tokens_of(text)]
        bounds.append(len(tokens))
    ids, edges = np.array(tokens, dtype=np.int32), np.array(bounds)
    hashes, sample = gram_hashes(ids), np.repeat(np.arange(len(names)), np.diff(edges))
    places = np.flatnonzero(sample[: len(hashes)] == sample[EXACT_TOKENS - 1 :]).astype(np.int32)
    places = places[np.argsort(hashes[places], kind="stable")]
    return ContaminationIndex(tuple(names), vocabulary, ids, edges, hashes[places], places)


def check_contamination(document: Document, index: ContaminationIndex, rules: ContaminationRules) -> Verdict:
    """Note the samples of which the document holds enough, or drop it."""
    tokens = tokens_of(document.text)
    shares = sample_shares(index, find_matches(tokens, index, rules))
    found = {name: share for name, share in shares.items() if share >= rules.min_sample_share}
    if not found:
        return document
    if rules.action == "drop":
        most = max(found, key=lambda name: found[name])
        return Drop("benchmark text", f"{100 * found[most]:.0f}% of {most}, one of {len(found)}")
    return replace(document, contamination=tuple(sorted(found)))


def find_matches(
    tokens: Sequence[str], index: ContaminationIndex, rules: ContaminationRules
) -> Iterator[Match]:
    """Yield the longest match from each place where 10 tokens begin to be the same."""
    ids = np.array([index.vocabulary.get(token, -1) for token in tokens], dtype=np.int32)
    begun: set[tuple[int, int]] = set()
    for start, place in _seeds(ids, index):
        begun.add((start, place))
        if (start - 1, place - 1) in begun:
            continue  # goes on from a seed one token earlier, which reaches as far
        sample = int(np.searchsorted(index.bounds, place, side="right")) - 1
        same = _overlay(ids[start:], index.tokens[place : index.bounds[sample + 1]])
        skips = np.flatnonzero(~same)[rules.skip_budget : rules.skip_budget + 1]
        same = same[: skips[0]] if len(skips) else same
        length = int(np.flatnonzero(same)[-1]) + 1
        if length >= rules.min_tokens:
            yield Match(sample, start, start + length, place - int(index.bounds[sample]))


def sample_shares(index: ContaminationIndex, matches: Iterable[Match]) -> dict[str, float]:
    """Return the share of each matched sample's tokens that lie within a match."""
    held: dict[int, set[int]] = {}
    for sample, start, end, sample_start in matches:
        held.setdefault(sample, set()).update(range(sample_start, sample_start + end - start))
    lengths = np.diff(index.bounds)
    return {index.names[sample]: len(places) / int(lengths[sample]) for sample, places in held.items()}


def tokens_of(text: str) -> list[str]:
    """Return lower-case words without punctuation; Chinese characters and kana one by one."""
    lower = text.lower()
    return (_CHARACTER_OR_TOKEN if has_characters_as_words(lower) else _TOKEN).findall(lower)


def _seeds(ids: NDArray[np.int32], index: ContaminationIndex) -> Iterator[tuple[int, int]]:
    """Yield (start in the document, place in the index) of every 10 equal tokens, in the document's order."""
    hashes = gram_hashes(ids)
    first = np.searchsorted(index.hashes, hashes)
    in_index = np.flatnonzero(first < len(index.hashes))
    for start in in_index[index.hashes[first[in_index]] == hashes[in_index]]:
        last = np.searchsorted(index.hashes, hashes[start], side="right")
        for place in index.places[first[start] : last]:
            if _overlay(ids[start : start + EXACT_TOKENS], index.tokens[place:]).all():
                yield int(start), int(place)


def _overlay(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.bool_]:
    length = min(len(a), len(b))
    return a[:length] == b[:length]


def gram_hashes(ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Return a hash of each 10 neighbours; equal hashes are compared token by token."""
    values = ids.astype(np.uint64)
    hashes = np.zeros(max(len(ids) - EXACT_TOKENS + 1, 0), dtype=np.uint64)
    for offset in range(EXACT_TOKENS):
        hashes = (hashes + values[offset : offset + len(hashes)]) * _MULTIPLIER
    return (hashes >> np.uint64(32)).astype(np.uint32)


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TOKEN = re.compile(r"[^\W_]+")
_CHARACTER_OR_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
