"""Whether the sources of a corpus can be read, found out by reading all of them as the corpus stage does."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from llama2_core.data.documents import Document
from llama2_core.errors import DataError
from storage.errors import StorageError
from storage.sources import parts
from storage.sources.documents import Quarantined
from tasks.corpus_recipe import CorpusRecipe, FileSource, SourceRecipe
from tasks.corpus_sources import Group, plan, read_group
from tasks.steps.urls import read_block_lists

WHOLE = 1 << 62
"""Bytes of a part: no file is cut, since only a part that begins its file numbers its lines."""


@dataclass
class SourceReport:
    """What a source holds, and where it cannot be read."""

    source: str
    documents: int = 0
    characters: int = 0
    without_text: int = 0
    """Documents of white space, or of nothing."""
    duplicate_ids: int = 0
    """Documents whose id an earlier one has."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Reason -> places."""
    places: list[Quarantined] = field(default_factory=list)
    """The first of them."""

    @property
    def ok(self) -> bool:
        """As for the corpus stage, a file without a document is no loss beside others."""
        return self.documents > 0 and not self.unreadable.keys() - {"empty"}

    def add(self, item: Document | Quarantined, most_places: int) -> None:
        if isinstance(item, Quarantined):
            self.unreadable[item.reason] = self.unreadable.get(item.reason, 0) + 1
            if len(self.places) < most_places:
                self.places.append(item)
        else:
            self.documents += 1
            self.characters += len(item.text)
            self.without_text += not item.text or item.text.isspace()


def plan_sources(recipe: CorpusRecipe) -> list[tuple[SourceRecipe, list[Group]]]:
    """Find the files of every source, a group each, before any is read.

    Raises DataError naming all that is missing, and block lists that cannot be read.
    """
    found, problems = [], []
    for source in (*recipe.sources, *recipe.benchmarks):
        try:
            found.append((source, _groups(source)))
        except (StorageError, OSError) as error:  # an OSError is the network's
            problems.append(f"source {source.name}: {error}")
    try:
        read_block_lists(recipe.urls)
    except DataError as error:
        problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return found


def _groups(source: SourceRecipe) -> list[Group]:
    if isinstance(source, FileSource):
        return [Group(0, source, (part,)) for part in parts.parts(source.paths, WHOLE)]
    return plan([source])


def validate_source(
    source: SourceRecipe, groups: Sequence[Group], most_places: int, advance: Callable[[int], object]
) -> SourceReport:
    """Read all documents, telling `advance` how many bytes have been read since it was told last, about.

    Memory holds one document, and of each id 8 bytes, its hash: among a million the odds are 3e-8 that two
    ids share one by chance.
    """
    report, ids = SourceReport(source.name), array("Q")
    for group in groups:
        ahead = group_bytes(group)
        for item in _items(group):
            report.add(item, most_places)
            if isinstance(item, Document):
                ids.frombytes(blake2b(item.id.encode(), digest_size=8).digest())
                read = min(ahead, len(item.text))
                ahead -= read
                advance(read)
        advance(ahead)
    report.duplicate_ids = _repeats(ids)
    return report


def _items(group: Group) -> Iterator[Document | Quarantined]:
    try:
        yield from read_group(group)
    except OSError as error:
        files = ", ".join(part.file for part in group.parts)
        raise DataError(
            f"source {group.source.name}: {files} cannot be read now: {error}. Try again."
        ) from error


def group_bytes(group: Group) -> int:
    """Return the bytes of a group's files, 0 where unknown."""
    return sum(part.size for part in group.parts)


def _repeats(hashes: array) -> int:
    ordered = np.frombuffer(hashes, np.uint64)
    ordered.sort()
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
