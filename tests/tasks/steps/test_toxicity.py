import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from llama2_core.data.documents import Document
from llama2_core.errors import ConfigError
from tasks.steps.toxicity import Classifier, Lexicon, Toxicity, measure_toxicity, toxicity_scores

TWEETS = Path(__file__).parents[4] / "shared" / "data" / "hate_offensive" / "labeled_data.csv"


def test_lexicon_score_by_hand():
    # Lines score 1/2 for one listed word, 7/8 for three, 0 for none; the empty line does not count.
    text = "Damn, it rains.\n\nBastard! BASTARD, damn.\nA bastardly line\nNothing."
    assert toxicity_scores([text, "", "\n", "Damn"], Lexicon()) == [(0.5 + 0.875 + 0 + 0) / 4, 0, 0, 0.5]


def test_the_sample_depends_on_the_id_alone():
    documents = [Document(f"web/{number}", "web", "Damn.") for number in range(2000)]
    measured = [measure_toxicity(document, Toxicity(sample_share=0.1)) for document in documents]
    assert 150 < sum(document.toxicity == 0.5 for document in measured) < 250
    assert measured == [measure_toxicity(document, Toxicity(sample_share=0.1)) for document in documents]
    assert measure_toxicity(documents[0], Toxicity()).toxicity == 0.5
    assert measure_toxicity(documents[0], Toxicity(sample_share=0)) is documents[0]


def area_under_curve(scores: list[float], labels: list[bool]) -> float:
    """Return the chance that a toxic text scores above another, ties counting half."""
    toxic, other = np.array(scores)[labels], np.array(scores)[~np.array(labels)]
    above = (toxic[:, None] > other).mean() + (toxic[:, None] == other).mean() / 2
    return float(above)


def test_area_under_curve_by_hand():
    assert area_under_curve([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == (1 + 1 + 0.5 + 1) / 4


@pytest.mark.skipif(not TWEETS.exists(), reason="no ../shared/data/hate_offensive")
def test_what_the_lexicon_is_worth():
    """0.88 on 6,000 tweets; flattering, since the tweets were gathered by a list of such words (Davidson 2017)."""
    with TWEETS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = toxicity_scores([row["tweet"] for row in rows], Lexicon())
    assert len(rows) == 6000
    assert 0.88 < area_under_curve(scores, [row["class"] != "2" for row in rows]) < 0.89


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """Return the folder of a tiny BERT with three labels."""
    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "nice", "nasty", "line"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(words), **shape, initializer_range=2.0, num_labels=3)
    config.id2label = {0: "fine", 1: "toxic", 2: "other"}
    config.label2id = {"fine": 0, "toxic": 1, "other": 2}
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_classifier_scores_are_the_models_own(classifier):
    lines = ["a nice line", "a nasty line", "nasty nasty", "a"]
    model = BertForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = BertTokenizer.from_pretrained(classifier)
    with torch.inference_mode():
        logits = [model(**tokenizer(line, return_tensors="pt")).logits[0] for line in lines]
    alone = [logit.softmax(-1)[1].item() for logit in logits]
    scorer = Classifier(model=classifier, toxic_label="toxic", batch_lines=3)
    scores = toxicity_scores(["\n".join(lines[:2]), "", "\n".join(lines[2:])], scorer)
    assert scores == pytest.approx([sum(alone[:2]) / 2, 0, sum(alone[2:]) / 2])
    assert len(set(alone)) == 4


def test_errors_say_what_to_do(classifier, tmp_path):
    with pytest.raises(ConfigError, match=r"knows fine, other, toxic, not LABEL_1"):
        toxicity_scores(["a"], Classifier(model=classifier))
    with pytest.raises(ConfigError, match="cannot be loaded as a classifier"):
        toxicity_scores(["a"], Classifier(model=str(tmp_path)))
    with pytest.raises(ValidationError, match="kind"):
        Toxicity.model_validate({"scorer": {"kind": "oracle"}})
