"""What a champion was made from, and what has come since: comparisons and documents that are not in its lineage."""

from collections.abc import Iterable
from contextlib import closing

from llama2_core.config import Record
from llama2_core.errors import ConfigError
from storage.artifacts import Artifact, Store
from storage.corpus_diff import corpus_diff
from storage.preferences import connect
from tasks.launch import find
from tasks.preferences import frozen_batch
from tasks.recipes import TokensRecipe
from tasks.rounds_recipe import RetrainRecipe, Start
from tasks.runtime import Runtime
from tasks.stage_models import JUDGES

FROZEN = """
SELECT batch FROM batches WHERE frozen_at IS NOT NULL AND batch IN (SELECT batch FROM annotations)
ORDER BY frozen_at, batch
"""
ARRIVED = ("only in B", "A drops, B keeps", "another text")


class News(Record):
    """What a round would learn that the champion has not."""

    batches: list[str]
    """Comparisons, oldest first; among them those that a refused candidate has learned from."""
    comparisons: int
    """In those that nothing was made from yet."""
    corpus: str
    """One with new documents, or nothing."""
    rows: list[dict[str, str]]
    """For people: what it is, and how much."""

    def is_enough(self, recipe: RetrainRecipe) -> bool:
        """Tell whether it is worth a round."""
        return bool(self.corpus) or self.comparisons >= recipe.least_comparisons


class Ancestry:
    """What went into a champion. Names are "kind/digest"."""

    def __init__(self, champion: Artifact, store: Store) -> None:
        self.champion, self.store = champion, store
        self.lineage = [*store.lineage(champion), champion]
        self.judges: dict[str, Artifact] = {}
        for domain in JUDGES:
            names = {a.manifest.parents[domain] for a in self.lineage if domain in a.manifest.parents}
            if judge := _youngest(a for a in self.lineage if a.full_name in names):
                self.judges[domain] = judge

    @property
    def batches(self) -> list[str]:
        """Comparisons that its reward models learned from, oldest first."""
        learned = (judge.manifest.parents.items() for judge in self.judges.values())
        return list(
            dict.fromkeys(n for parents in learned for role, n in parents if role.startswith("comparisons"))
        )

    def newest(self, kind: str) -> Artifact | None:
        """Return the youngest ancestor of a kind."""
        return _youngest(a for a in self.lineage if a.kind == kind)

    def start(self, batches: list[str]) -> Start:
        """Return what the next round begins from, but for evaluations.

        Raises ConfigError for a champion that no round can go on from.
        """
        named = {a.full_name: a for a in self.lineage}
        trained = self.champion
        while "base" not in trained.manifest.parents and "chat" in trained.manifest.parents:
            trained = named[trained.manifest.parents["chat"]]
        judge = self.judges.get("helpfulness")
        chat = named[judge.manifest.parents["chat"]] if judge else self.champion
        if "base" not in trained.manifest.parents or "dialogs" not in chat.manifest.parents:
            raise ConfigError(
                f"{self.champion.name} was not fine-tuned from a base model on dialogs of {self.store.root}: a round "
                "of retraining cannot begin from it. Register a chat model of `llama2 run`."
            )
        if not (batches := [*self.batches, *batches]):
            raise ConfigError(
                f"no comparisons are there for reward models to learn from in {self.store.root}"
            )
        samples = [a.full_name for a in self.lineage if a.kind == "samples"]
        return Start(
            number=1 + len(samples),
            base=trained.manifest.parents["base"],
            chat=chat.full_name,
            dialogs=chat.manifest.parents["dialogs"],
            newest=self.champion.full_name,
            batches=batches,
            judges={domain: judge.full_name for domain, judge in self.judges.items()},
            samples=samples,
            standard="",
            standing="",
        )


def ancestry(champion: str, runtime: Runtime) -> Ancestry:
    return Ancestry(find(champion, runtime), Store(runtime.store_root))


def news_since(champion: str, recipe: RetrainRecipe, runtime: Runtime) -> News:
    """Look for what neither the champion nor a candidate that came from it was made from.

    Batches of people count once they are frozen, whenever; those of flows when they are younger than all that the
    champion knows.
    """
    of = ancestry(champion, runtime)
    store = of.store
    known = {a.full_name: a for a in (*of.lineage, *_tried(champion, store))}
    with closing(connect(store)) as db:
        frozen = [batch for (batch,) in db.execute(FROZEN).fetchall()]
    learned = {_frozen_name(a) for a in of.lineage}
    tried = {_frozen_name(a) for a in known.values()}
    people = {batch: frozen_batch(batch, runtime, champion) for batch in frozen if batch not in learned}
    youngest = of.newest("comparisons")
    since = youngest.manifest.created_at if youngest else ""
    sampled = [
        a.full_name
        for a in store.artifacts()
        if a.kind == "comparisons" and not _frozen_name(a) and a.full_name not in known
        and a.manifest.created_at > since
    ]  # fmt: skip
    fresh = [store.resolve(name) for name in (*(n for b, n in people.items() if b not in tried), *sampled)]
    rows = [
        {"what": a.manifest.recipe["batch"], "how much": f"{a.summary['comparisons']:,} comparisons"}
        for a in fresh
    ]
    corpus, documents = _new_documents(of, known) if recipe.pretrain else ("", 0)
    if corpus:
        rows.append({"what": corpus[:19], "how much": f"{documents:,} documents"})
    return News(
        batches=[*people.values(), *sampled],
        comparisons=sum(a.summary["comparisons"] for a in fresh),
        corpus=corpus,
        rows=rows,
    )


def _youngest(artifacts: Iterable[Artifact]) -> Artifact | None:
    return max(artifacts, key=lambda artifact: artifact.manifest.created_at, default=None)


def _tried(champion: str, store: Store) -> list[Artifact]:
    """Return what went into the decisions that a champion, or what was made from it, took part in."""
    lineages = (store.lineage(a) for a in store.artifacts() if a.kind == "decision")
    return [a for lineage in lineages if champion in {a.full_name for a in lineage} for a in lineage]


def _frozen_name(artifact: Artifact) -> str:
    """Return the name of a frozen batch of the log, nothing for other artifacts."""
    recipe = artifact.manifest.recipe
    return recipe["batch"] if artifact.kind == "comparisons" and "rows" in recipe else ""


def _new_documents(of: Ancestry, known: dict[str, Artifact]) -> tuple[str, int]:
    """Return the newest corpus and how many documents it keeps that the champion's newest does not."""
    before, corpus = of.newest("corpus"), _youngest(a for a in of.store.artifacts() if a.kind == "corpus")
    if not before or not corpus or corpus.full_name in known or not of.newest("tokens"):
        return "", 0
    changes = corpus_diff(of.store, before, corpus).documents
    arrived = sum(row["documents"] for row in changes if row["change"] in ARRIVED and row["step_b"] is None)
    return (corpus.full_name if arrived else ""), arrived


def tokens_recipe(champion: str, runtime: Runtime) -> TokensRecipe:
    """Return how the champion's base model was shown its newest corpus; another is encoded and mixed alike."""
    shards = ancestry(champion, runtime).newest("tokens")
    said = shards.manifest.recipe if shards else {}
    return TokensRecipe.model_validate(
        {name: said[name] for name in TokensRecipe.model_fields if name in said}
    )
