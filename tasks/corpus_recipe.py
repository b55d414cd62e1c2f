"""What defines a corpus: sources and the rules of its steps. No prefect, no torch."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from llama2_core.config import Positive, Record, Share
from llama2_core.data.contamination import ContaminationRules
from llama2_core.data.mixture import SourceWeight
from llama2_core.data.quality import QualityRules
from tasks.steps.encoding import EncodingRepair
from tasks.steps.personal import PersonalData
from tasks.steps.sites import PersonalSites
from tasks.steps.toxicity import Toxicity
from tasks.steps.urls import UrlRules


class Source(SourceWeight):
    """What every source declares."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """How reports call this source; its documents' ids begin with it."""
    licence: str = ""
    """Under which its text may be used, for the data card."""
    attribution: str = ""
    """Whom to name, for the data card."""

    @property
    def mixing(self) -> SourceWeight:
        return SourceWeight(weight=self.weight, epochs=self.epochs)


StarterName = Literal["wikipedia-en", "wikipedia-bg", "python-docs", "docstrings"]
_WIKIPEDIA, _PYTHON = ("CC BY-SA 4.0", "Wikipedia contributors"), ("PSF-2.0", "Python Software Foundation")
_STARTER = dict(zip(get_args(StarterName), (_WIKIPEDIA, _WIKIPEDIA, _PYTHON, _PYTHON), strict=True))


class StarterSource(Source):
    """Text that installed packages carry: nothing is downloaded."""

    kind: Literal["starter"] = "starter"
    """Starter data."""
    name: StarterName  # pyright: ignore[reportIncompatibleVariableOverride] (fields are frozen)
    """Wikipedia articles, the Python language reference, or the standard library's docstrings."""
    licence: str = Field(default_factory=lambda data: _STARTER[data["name"]][0])
    """Under which its text may be used."""
    attribution: str = Field(default_factory=lambda data: _STARTER[data["name"]][1])
    """Whom to name."""


class FileSource(Source):
    """Text files of one's own."""

    kind: Literal["files"] = "files"
    """Files on disk."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files, folders or glob patterns, here or by URL (s3://bucket/folder): .txt, .jsonl, .csv, .parquet, .warc; all
    but Parquet also as .gz and .zst."""
    text_field: str = "text"
    """Field or column of the text."""
    url_field: str = "url"
    """Field or column of the address."""
    passage_words: Positive | None = None
    """Cut a .txt into documents of so many words or more, at blank lines, or at any line's end from twice as many.
    Absent: a file is a document."""


class HubSource(Source):
    """A dataset of the Hugging Face hub, or a folder in its formats."""

    kind: Literal["hub"] = "hub"
    """Hugging Face dataset."""
    dataset: str
    """Its name on the hub, or a folder."""
    configuration: str | None = None
    """The dataset's configuration, where it has several."""
    split: str = "train"
    """Its split."""
    revision: str | None = None
    """A commit or tag; absent, the newest."""
    text_field: str = "text"
    """Column of the text."""
    url_field: str = "url"
    """Column of the address."""


SourceRecipe = Annotated[StarterSource | FileSource | HubSource, Field(discriminator="kind")]


class CorpusRecipe(Record):
    """Which text the model learns from. Llama 2 section 2.1 publishes neither sources nor filters."""

    sources: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)] = (
        StarterSource(name="wikipedia-en"),
        StarterSource(name="wikipedia-bg"),
        StarterSource(name="python-docs"),
        StarterSource(name="docstrings"),
    )
    """Where text comes from, in order: of two duplicates the first stays."""
    encoding: EncodingRepair = EncodingRepair()
    """Repair of wrongly decoded text."""
    urls: UrlRules = UrlRules()
    """Hosts and words in addresses that are left out."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """ISO 639 codes to keep; "unknown" is where none was found. Llama 2 keeps all, 90% English."""
    language_threshold: Share = 0.5
    """fastText score below which the language is unknown. Llama 2 section 4.1: 0.5."""
    quality: QualityRules = QualityRules()
    """What a document must look like."""
    quarantine_share: Share = 0.01
    """Largest share of a source's documents that may be unreadable; beyond it nothing is built."""
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Estimated Jaccard similarity of word 5-grams from which the later document goes."""
    personal_data: PersonalData | None = PersonalData()
    """What reaches a private person becomes a placeholder. Absent: nothing is touched."""
    personal_sites: PersonalSites | None = PersonalSites()
    """When all of a site goes for the personal data that its documents hold. Absent: none goes."""
    benchmarks: tuple[SourceRecipe, ...] = ()
    """Sources of benchmark samples, one a document, that the corpus should not hold."""
    contamination: ContaminationRules = ContaminationRules()
    """When a document counts as holding them, and what then."""
    toxicity: Toxicity | None = Toxicity()
    """Measured, and by itself no reason to drop. Absent: not measured."""
    demographics: bool = True
    """Note pronouns and identity terms, for Llama 2's Table 9."""

    @property
    def weights(self) -> dict[str, SourceWeight]:
        """How much of each source there is in the mix."""
        return {source.name: source.mixing for source in self.sources}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in (*self.sources, *self.benchmarks)]
        if len(set(names)) < len(names):
            raise ValueError(f"every source needs a name of its own, not {names}")
        return self
