"""How toxic a document is: measured, and by itself no reason to drop it (Llama 2 section 4.1).

A document's score is the mean of its lines' scores. The paper's classifier is HateBERT tuned on ToxiGen; the default
here is a list of words, which is fast and offline and knows nothing of context.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from llama2_core.config import Positive, Record, Share
from llama2_core.data.documents import Document
from llama2_core.errors import ConfigError


class Lexicon(Record):
    """Counts words of the badwords package's English list; a line with k of them scores 1 - 2**-k."""

    kind: Literal["lexicon"] = "lexicon"
    """List of words."""


class Classifier(Record):
    """A sequence classifier of transformers; a line's score is the probability of the toxic label."""

    kind: Literal["classifier"] = "classifier"
    """Hugging Face classifier."""
    model: str
    """Name on the hub, or folder. Llama 2: HateBERT tuned on ToxiGen, such as tomh/toxigen_hatebert."""
    toxic_label: str = "LABEL_1"
    """Name of the toxic class in the model's configuration. ToxiGen's models: LABEL_1."""
    batch_lines: Positive = 64
    """Lines in one forward pass."""
    max_tokens: Positive = 128
    """A longer line is cut. ToxiGen's statements are shorter."""


class Toxicity(Record):
    """How and for which documents toxicity is measured. Llama 2 section 4.1."""

    scorer: Annotated[Lexicon | Classifier, Field(discriminator="kind")] = Lexicon()
    """What scores a line."""
    sample_share: Share = 1.0
    """Share of documents measured, chosen by a hash of their ids. Llama 2: 0.1, of the English ones."""


def measure_toxicity(document: Document, rules: Toxicity) -> Document:
    """Note the document's score, if it is in the sample."""
    drawn = int(hashlib.sha256(document.id.encode()).hexdigest()[:8], 16) / 2**32
    if drawn >= rules.sample_share:
        return document
    return replace(document, toxicity=toxicity_scores([document.text], rules.scorer)[0])


def toxicity_scores(texts: Sequence[str], scorer: Lexicon | Classifier) -> list[float]:
    """Return each text's mean over its lines that are not empty; 0 for a text without one."""
    lines_of = [[line for line in text.split("\n") if line.strip()] for text in texts]
    lines = [line for lines in lines_of for line in lines]
    scores = iter(
        _lexicon_scores(lines) if isinstance(scorer, Lexicon) else _classifier_scores(lines, scorer)
    )
    return [sum(islice(scores, len(lines))) / max(len(lines), 1) for lines in lines_of]


def _lexicon_scores(lines: Sequence[str]) -> Iterator[float]:
    listed = _lexicon()
    return (1 - 0.5 ** sum(word in listed for word in _WORD.findall(line.lower())) for line in lines)


@lru_cache(maxsize=1)
def _lexicon() -> frozenset[str]:
    """Read the list; entries of several words are of no use here."""
    words = resources.files("badwords") / "resource" / "words" / "en.txt"
    return frozenset(words.read_text(encoding="utf-8").split("\n"))


def _classifier_scores(lines: Sequence[str], scorer: Classifier) -> Iterator[float]:
    try:
        from tasks.steps import toxicity_classifier  # noqa: PLC0415  (torch, and an extra)
    except ImportError as error:
        install = 'pip install "llama2-pipeline[data]"'
        raise ConfigError(f"A toxicity classifier needs the package transformers: {install}") from error
    return toxicity_classifier.line_scores(
        lines, scorer.model, scorer.toxic_label, scorer.batch_lines, scorer.max_tokens
    )


_WORD = re.compile(r"[^\W_]+")
