"""The sources of a corpus: what their content is, the groups that they fall into, the documents of a group."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llama2_core.data.documents import Document
from storage import disk
from storage.sources import hub, parts
from storage.sources.documents import Part, Quarantined, RawDocument
from storage.sources.places import content_digest
from storage.sources.starter import python_docs, wikipedia
from tasks.corpus_recipe import CorpusRecipe, FileSource, HubSource, SourceRecipe, StarterSource

GROUP_BYTES = 64 << 20


class Group(NamedTuple):
    """Parts of one source, worked on by one process."""

    number: int
    """Its place in the corpus."""
    source: SourceRecipe
    parts: tuple[Part, ...]


def plan(sources: Sequence[SourceRecipe]) -> list[Group]:
    """Return the groups of all sources, in their order; it depends on the sources alone."""
    groups = [(source, together) for source in sources for together in _grouped(_parts(source))]
    return [Group(number, *group) for number, group in enumerate(groups)]


def _parts(source: SourceRecipe) -> list[Part]:
    match source:
        case FileSource(paths=paths):
            return parts.parts(paths)
        case HubSource():
            return hub.parts(source.dataset, source.configuration, source.split, source.revision)
        case _:
            return [Part("", source.name, size=GROUP_BYTES)]


def _grouped(parts: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
    """Put neighbours together up to GROUP_BYTES; one of unknown size is alone."""
    group: list[Part] = []
    filled = 0
    for part in parts:
        size = part.size or GROUP_BYTES
        if group and filled + size > GROUP_BYTES:
            yield tuple(group)
            group, filled = [], 0
        group.append(part)
        filled += size
    yield tuple(group)


def read_group(group: Group) -> Iterator[Document | Quarantined]:
    """Yield a group's documents as they come, and each place where one could not be read."""
    source = group.source
    for part in group.parts:
        if isinstance(source, StarterSource):
            items: Iterator[RawDocument | Quarantined] = _starter_documents(source)
        else:
            words = source.passage_words if isinstance(source, FileSource) else None
            items = parts.read(
                part, text_field=source.text_field, url_field=source.url_field, passage_words=words
            )
        for item in items:
            yield (
                item
                if isinstance(item, Quarantined)
                else Document(f"{source.name}/{item.id}", source.name, item.text, url=item.url)
            )


def corpus_identity(recipe: CorpusRecipe) -> dict[str, Any]:
    """Return what decides the corpus: the recipe, with sources and block lists named by content, not by path.

    Sources' weights and epochs decide the mix of tokens, not the corpus.
    """

    def contents(sources: Sequence[SourceRecipe]) -> list[dict[str, str]]:
        elsewhere = {"paths", "dataset", "revision", "weight", "epochs"}
        return [source.model_dump(exclude=elsewhere) | {"content": _content(source)} for source in sources]

    lists = (recipe.urls.host_files, recipe.urls.word_files)
    return recipe.model_dump(mode="json") | {
        "sources": contents(recipe.sources),
        "benchmarks": contents(recipe.benchmarks),
        "urls": [[disk.content_digest(Path(file)) for file in files] for files in lists],
    }


def _content(source: SourceRecipe) -> str:
    match source:
        case FileSource(paths=paths):
            return content_digest(paths)
        case HubSource():
            return hub.content_digest(source.dataset, source.revision)
        case StarterSource(name="wikipedia-en" | "wikipedia-bg" as name):
            return wikipedia.DUMPS[name.removeprefix("wikipedia-")][1]
        case StarterSource(name="python-docs"):
            return python_docs.topics_digest()
        case _:
            return python_docs.docstrings_digest()


def _starter_documents(source: StarterSource) -> Iterator[RawDocument]:
    match source.name:
        case "python-docs":
            texts = python_docs.topics()
        case "docstrings":
            texts = python_docs.docstrings()
        case name:
            articles = wikipedia.articles("bg" if name == "wikipedia-bg" else "en")
            texts = ((title, f"{title}\n\n{wikipedia.plain_text(text)}") for _, title, text in articles)
    return (RawDocument(name, text) for name, text in texts)
