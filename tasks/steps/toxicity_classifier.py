"""Scores of lines by a sequence classifier of transformers."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llama2_core.errors import ConfigError


def line_scores(
    lines: Sequence[str], name: str, toxic_label: str, batch_lines: int, max_tokens: int
) -> Iterator[float]:
    """Yield each line's probability of the toxic label. Raises ConfigError for what cannot be loaded."""
    tokenizer, model, column = _load(name, toxic_label)
    # Of several labels that may hold at once, or of a single one, each is a yes or no.
    independent = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"
    for start in range(0, len(lines), batch_lines):
        batch = list(lines[start : start + batch_lines])
        encoded = tokenizer(batch, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**encoded.to(model.device)).logits
        yield from (logits.sigmoid() if independent else logits.softmax(-1))[:, column].tolist()


@lru_cache(maxsize=1)
def _load(name: str, toxic_label: str) -> tuple[Any, Any, int]:
    """Return tokenizer, model and the toxic label's column."""
    try:
        model = AutoModelForSequenceClassification.from_pretrained(name).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"toxicity.scorer.model: {name} cannot be loaded as a classifier: {error}"
        ) from error
    labels = model.config.label2id
    if toxic_label not in labels:
        raise ConfigError(f"toxicity.scorer.toxic_label: {name} knows {', '.join(labels)}, not {toxic_label}")
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu"), labels[toxic_label]
