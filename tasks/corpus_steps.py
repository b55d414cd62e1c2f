"""The steps of a corpus, in order: before duplicates are looked for, and after."""

from dataclasses import replace
from functools import cache, partial

from llama2_core.data.contamination import ContaminationIndex, build_index, check_contamination
from llama2_core.data.demographics import measure_demographics
from llama2_core.data.documents import Document, Drop, Verdict
from llama2_core.data.quality import check_quality
from storage.sources.documents import Quarantined
from tasks.corpus_groups import Step
from tasks.corpus_recipe import CorpusRecipe, SourceRecipe
from tasks.corpus_sources import plan, read_group
from tasks.language import identify
from tasks.steps.encoding import repair_encoding
from tasks.steps.personal import scrub_document
from tasks.steps.toxicity import measure_toxicity
from tasks.steps.urls import check_url, read_block_lists


def readable(document: Document, recipe: CorpusRecipe) -> Document:
    """Return the document repaired, in normal form, with its language; below the threshold it is unknown."""
    repaired = repair_encoding(document, recipe.encoding)
    language, score = identify(repaired.text)
    known = score >= recipe.language_threshold
    return replace(repaired, language=language if known else "unknown", language_score=score)


def first_steps(recipe: CorpusRecipe) -> list[Step]:
    """Return what each document is judged by, one after the other."""

    def language(document: Document) -> Verdict:
        if document.language in recipe.languages:
            return document
        return Drop(f"language {document.language}", f"score {document.language_score:.2f}")

    steps: list[Step] = [
        ("address", partial(check_url, lists=read_block_lists(recipe.urls))),
        ("language", language),
        ("quality", partial(check_quality, rules=recipe.quality)),
    ]
    if recipe.personal_data:
        steps.append(("personal data", partial(scrub_document, rules=recipe.personal_data)))
    return steps


def last_steps(recipe: CorpusRecipe) -> list[Step]:
    """Return what is done to a document that repeats no other."""
    steps: list[Step] = []
    if recipe.benchmarks:
        index = benchmark_index(recipe.benchmarks)
        rules = recipe.contamination
        steps.append(("benchmarks", partial(check_contamination, index=index, rules=rules)))
    if recipe.toxicity:
        steps.append(("toxicity", partial(measure_toxicity, rules=recipe.toxicity)))
    if recipe.demographics:
        steps.append(("demographics", measure_demographics))
    return steps


@cache  # a worker needs it for group after group
def benchmark_index(sources: tuple[SourceRecipe, ...]) -> ContaminationIndex:
    """Index the sources' documents as benchmark samples."""
    items = (item for group in plan(sources) for item in read_group(group))
    return build_index((item.id, item.text) for item in items if not isinstance(item, Quarantined))
