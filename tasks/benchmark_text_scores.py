"""Scores of texts by NLTK and rouge_score, whose imports take seconds."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from nltk.corpus import wordnet
from nltk.sentiment.vader import SentimentIntensityAnalyzer
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from tasks.benchmark_scores import Document


def sentiment(document: Document, results: Sequence[str]) -> dict[str, float]:
    """VADER's compound score, from -1 to 1, of prompt and continuation together. Llama 2 section A.4.8."""
    score = _vader().polarity_scores(f"{document['prompt']} {results[0].strip()}")["compound"]
    return {"sentiment": score, f"sentiment of {document['group']}": score}


@cache
def _vader() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def biomedical(document: Document, results: Sequence[str]) -> dict[str, Any]:
    """BLEU (of the corpus), ROUGE and METEOR (means) over words; BioMedGPT counts a BERT tokenizer's pieces."""
    said, wanted = results[0].strip(), document["answer"]
    pair = _tokens(wanted), _tokens(said)
    rouge = {name: score.fmeasure for name, score in _rouge().score(wanted, said).items()}
    return {
        "bleu_2": pair,
        "bleu_4": pair,
        **rouge,
        "meteor": meteor_score([pair[0]], pair[1], wordnet=wordnet),
    }


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)


def _bleu(order: int) -> Callable[[Sequence[tuple[list[str], list[str]]]], float]:
    def bleu(pairs: Sequence[tuple[list[str], list[str]]]) -> float:
        weights = [1 / order] * order
        found: Any = corpus_bleu(
            [[wanted] for wanted, _ in pairs], [said for _, said in pairs], weights=weights
        )
        return float(found)

    return bleu


bleu_2, bleu_4 = _bleu(2), _bleu(4)
