"""The corpus stage: raw sources in, documents worth learning from out, each refusal on record (section 2.1).

decode -> normalise -> name the language -> language -> quality -> exact and near duplicates -> personal data
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llama2_core.config import Record, Share
from llama2_core.data.dedup import exact_duplicates
from llama2_core.data.documents import Document, Drop, Verdict, normalise
from llama2_core.data.personal import scrub_personal_data
from llama2_core.data.quality import QualityRules, quality_verdict, strip_lines
from llama2_core.errors import DataError
from storage.schemas import DOCUMENTS, DROPPED, write_table
from storage.sources import files
from storage.sources.starter import python_docs, wikipedia
from tasks.language import identify
from tasks.near_duplicates import near_duplicates


class StarterSource(Record):
    """Text that installed packages carry: nothing is downloaded."""

    kind: Literal["starter"] = "starter"
    """Starter data."""
    name: Literal["wikipedia-en", "wikipedia-bg", "python-docs", "docstrings"]
    """Wikipedia articles, the Python language reference, or the standard library's docstrings."""


class FileSource(Record):
    """Text files of one's own."""

    kind: Literal["files"] = "files"
    """Files on disk."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """How reports call this source; its documents' ids begin with it."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """.txt and .jsonl files, folders, or glob patterns."""


SourceRecipe = Annotated[StarterSource | FileSource, Field(discriminator="kind")]


class CorpusRecipe(Record):
    """Which text the model learns from. Llama 2 section 2.1 publishes neither sources nor filters."""

    sources: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)] = (
        StarterSource(name="wikipedia-en"),
        StarterSource(name="wikipedia-bg"),
        StarterSource(name="python-docs"),
        StarterSource(name="docstrings"),
    )
    """Where text comes from, in order: of two duplicates the first stays."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """ISO 639 codes to keep; "unknown" is where none was found. Llama 2 keeps all, 90% English."""
    language_threshold: Share = 0.5
    """fastText score below which the language is unknown. Llama 2 section 4.1: 0.5."""
    quality: QualityRules = QualityRules()
    """What a document must look like."""
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Estimated Jaccard similarity of word 5-grams from which the later document goes."""
    scrub_personal_data: bool = True
    """Replace mail and IP addresses, phone, card and account numbers by placeholders."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"every source needs a name of its own, not {names}")
        return self


def corpus_identity(recipe: CorpusRecipe) -> dict[str, Any]:
    """Return what decides the corpus: the recipe, with every source named by its content, not its path."""
    return recipe.model_dump(mode="json") | {
        "sources": [{"name": source.name, "content": _content(source)} for source in recipe.sources]
    }


def build_corpus(recipe: CorpusRecipe, directory: Path) -> dict[str, Any]:
    """Write documents.parquet and dropped.parquet into the directory; return counts for the manifest.

    Raises DataError, saying which step dropped what, when nothing is left; SourceError and MissingPackage.
    """
    read = [document for source in recipe.sources for document in _documents(source, recipe)]
    kept, dropped = _filter(read, recipe)
    scrubbed: Counter[str] = Counter()
    if recipe.scrub_personal_data:
        kept, scrubbed = _scrub(kept)
    write_table(directory / "documents.parquet", [asdict(document) for document in kept], DOCUMENTS)
    write_table(directory / "dropped.parquet", dropped, DROPPED)
    return _summary(read, kept, dropped, scrubbed)


def _content(source: SourceRecipe) -> str:
    match source:
        case FileSource(paths=paths):
            return files.files_digest(paths)
        case StarterSource(name="wikipedia-en" | "wikipedia-bg" as name):
            return wikipedia.DUMPS[name.removeprefix("wikipedia-")][1]
        case StarterSource(name="python-docs"):
            return python_docs.topics_digest()
        case _:
            return python_docs.docstrings_digest()


def _texts(source: SourceRecipe) -> Iterator[tuple[str, str]]:
    """Yield (id within the source, decoded text)."""
    match source:
        case FileSource(paths=paths):
            yield from files.read_documents(paths)
        case StarterSource(name="python-docs"):
            yield from python_docs.topics()
        case StarterSource(name="docstrings"):
            yield from python_docs.docstrings()
        case StarterSource(name=name):
            for _, title, wikitext in wikipedia.articles("bg" if name == "wikipedia-bg" else "en"):
                yield title, f"{title}\n\n{wikipedia.plain_text(wikitext)}"


def _documents(source: SourceRecipe, recipe: CorpusRecipe) -> Iterator[Document]:
    for name, raw in _texts(source):
        text = normalise(raw)
        language, score = identify(text)
        if score < recipe.language_threshold:
            language = "unknown"
        yield Document(f"{source.name}/{name}", source.name, text, language, score)


def _filter(documents: list[Document], recipe: CorpusRecipe) -> tuple[list[Document], list[dict[str, str]]]:
    """Return the documents that pass every step, and a DROPPED row for each of the others."""
    steps: list[tuple[str, Callable[[list[Document]], Iterator[Verdict]]]] = [
        ("language", lambda documents: _by_language(documents, recipe.languages)),
        ("quality", lambda documents: _by_quality(documents, recipe.quality)),
        ("exact duplicates", _without_exact_duplicates),
        ("near duplicates", lambda docs: _without_near_duplicates(docs, recipe.near_duplicate_threshold)),
    ]
    dropped = []
    for step, verdicts_on in steps:
        verdicts = list(verdicts_on(documents))
        dropped += [
            {
                "id": document.id,
                "source": document.source,
                "text": document.text,
                "step": step,
                **asdict(verdict),
            }
            for document, verdict in zip(documents, verdicts, strict=True)
            if isinstance(verdict, Drop)
        ]
        documents = [verdict for verdict in verdicts if isinstance(verdict, Document)]
    if not documents:
        counts = "; ".join(
            f"{drop['step']} dropped {drop['count']} ({drop['reason']})" for drop in _tally(dropped)
        )
        raise DataError(f"no document is left of {len(dropped)}: {counts}. Relax those rules or add sources.")
    return documents, dropped


def _by_language(documents: list[Document], wanted: tuple[str, ...]) -> Iterator[Verdict]:
    for document in documents:
        if document.language in wanted:
            yield document
        else:
            yield Drop(f"language {document.language}", f"score {document.language_score:.2f}")


def _by_quality(documents: list[Document], rules: QualityRules) -> Iterator[Verdict]:
    for document in documents:
        text = strip_lines(document.text, rules.c4)
        yield quality_verdict(text, rules) or replace(document, text=text)


def _without_exact_duplicates(documents: list[Document]) -> Iterator[Verdict]:
    kept_by_dropped = exact_duplicates(documents)
    for document in documents:
        kept = kept_by_dropped.get(document.id)
        yield Drop("same text", f"of {kept}") if kept else document


def _without_near_duplicates(documents: list[Document], threshold: float) -> Iterator[Verdict]:
    found = {dropped: (kept, score) for dropped, kept, score in near_duplicates(documents, threshold)}
    for document in documents:
        if match := found.get(document.id):
            yield Drop("nearly the same text", f"{match[1]:.2f} of {match[0]}")
        else:
            yield document


def _scrub(documents: list[Document]) -> tuple[list[Document], Counter[str]]:
    total: Counter[str] = Counter()
    scrubbed = []
    for document in documents:
        text, counts = scrub_personal_data(document.text)
        total += counts
        scrubbed.append(replace(document, text=text))
    return scrubbed, total


def _tally(dropped: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return one row a step and reason, in order of steps, the commonest reason of a step first."""
    first = {(row["step"], row["reason"]): row["id"] for row in reversed(dropped)}
    counts = Counter((row["step"], row["reason"]) for row in dropped)
    steps = list(dict.fromkeys(row["step"] for row in dropped))
    return [
        {"step": step, "reason": reason, "count": count, "example_id": first[step, reason]}
        for (step, reason), count in sorted(
            counts.items(), key=lambda item: (steps.index(item[0][0]), -item[1])
        )
    ]


def _summary(
    read: list[Document], kept: list[Document], dropped: list[dict[str, str]], scrubbed: Counter[str]
) -> dict[str, Any]:
    reads, keeps = (Counter(document.source for document in documents) for documents in (read, kept))
    characters: Counter[str] = Counter()
    for document in kept:
        characters[document.source] += len(document.text)
    steps = Counter(row["step"] for row in dropped)
    return {
        "documents_read": len(read),
        "documents_kept": len(kept),
        "characters_kept": characters.total(),
        "languages": dict(Counter(document.language for document in read).most_common()),
        "drops": _tally(dropped),
        "sources": {
            name: {"read": reads[name], "kept": keeps[name], "characters": characters[name]} for name in reads
        },
        "scrubbed": dict(scrubbed.most_common()),
        "duplicates": {"exact": steps["exact duplicates"], "near": steps["near duplicates"]},
    }
