"""What is new since a champion, and what becomes of its candidate: promoted, refused, asked about, rolled back."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import retrain
from llama2_core.errors import ConfigError
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Artifact, Store
from storage.errors import ArtifactNotFound
from storage.preference_events import BatchFrozen, BatchOpened
from storage.preference_log import PreferenceLog
from storage.schemas import DOCUMENTS, DROPPED, write_table
from tasks.news import ancestry, news_since, tokens_recipe
from tasks.people import Approval, AwaitingPeople
from tasks.registry import register, roll_back, versions
from tasks.retrain import WHY, Decision, Trial, alone, answer, carry_out, champion_of_home, decide, waiting
from tasks.rounds_recipe import RetrainRecipe, Round
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tests.storage.test_preference_log import compared

NOW = datetime(2026, 11, 2, tzinfo=UTC)
RATE = {"value": 0.6, "low": 0.55, "high": 0.65}
RECIPE = RetrainRecipe(least_comparisons=2)
ASKING = RECIPE.model_copy(update={"approval": True})


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@dataclass
class Home:
    """What `llama2 run` leaves, by hand: small artifacts with the parents of real ones."""

    runtime: Runtime
    model: Transformer
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        self.store = Store(self.runtime.store_root)
        self.count = 0
        self.corpus = self.documents("a", "b")
        self.tokens = self.add("tokens", {"corpus": self.corpus.full_name}, row_tokens=65, total_tokens=900)
        self.base = self.add("base", {"tokens": self.tokens.full_name})
        self.dialogs = self.add("dialogs", {}).full_name
        self.sft = self.chat({"dialogs": self.dialogs})
        self.first = self.batch("1")
        self.champion = self.round(self.sft, self.first)
        examined = self.add("evaluation", {"model": self.champion.full_name})
        self.add("verdict", {"rejection": examined.full_name}, champion="rejection")

    def add(self, kind: str, parents: dict[str, str], write=None, **facts) -> Artifact:
        self.count += 1
        digest = f"{self.count:02x}{'0' * 62}"
        with self.store.building(kind, digest) as folder:
            write = write or (lambda folder: (folder / "content").touch())
            write(folder)
            measured = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
            return self.store.commit(
                kind, digest, version=1, recipe=facts, parents=parents, summary=facts, **measured
            )

    def chat(self, parents: dict[str, str]) -> Artifact:
        def write(folder: Path) -> None:
            save_model(folder, self.model, self.tokenizer)

        return self.add("chat", {"base": self.base.full_name, **parents}, write)

    def batch(self, name: str) -> Artifact:
        models = {"newest": self.sft.full_name, "other": self.sft.full_name, "dialogs": self.dialogs}
        return self.add("comparisons", models, batch=name, comparisons=30)

    def round(self, newest: Artifact, *batches: Artifact) -> Artifact:
        """Train judges on batches, sample the newest model, fine-tune."""
        learned = {f"comparisons{n}": batch.full_name for n, batch in enumerate(batches, 1)}
        judges = {
            domain: self.add("reward", {"chat": self.sft.full_name, **learned}, domain=domain).full_name
            for domain in ("helpfulness", "safety")
        }
        sampled = {"chat": newest.full_name, **judges, "dialogs": self.dialogs}
        return self.chat({"samples": self.add("samples", sampled).full_name})

    def documents(self, *texts: str) -> Artifact:
        def write(folder: Path) -> None:
            blank = {"source": "mine", "language": "en", "language_score": 1.0, "url": "", "changes": [],
                     "contamination": [], "toxicity": None, "pronouns": [], "identities": []}  # fmt: skip
            for name in ("documents", "dropped"):
                (folder / name).mkdir()
            write_table(
                folder / "documents" / "0.parquet", [{**blank, "id": t, "text": t} for t in texts], DOCUMENTS
            )
            write_table(folder / "dropped" / "0.parquet", [], DROPPED)

        return self.add("corpus", {}, write, sources={"mine": {"kept": len(texts)}})

    def people(self, batch: str, comparisons: int) -> None:
        """Freeze a batch of the log."""
        with PreferenceLog(self.runtime.home / "preferences") as log:
            log.append(BatchOpened(id=batch, target=comparisons, time=NOW))
            for number in range(comparisons):
                name = f"{batch}-{number}"
                log.append(compared(name, batch=batch, question=name, prompt_id=name))
            log.append(
                BatchFrozen(id=batch, time=datetime.now(UTC), held_out_share=0, most_held_out=0, seed=0)
            )

    def trial(self, accepted: bool) -> Trial:
        """Make a round on all there is, which its gate accepts or refuses."""
        champion = champion_of_home(self.runtime)
        news = news_since(champion, RECIPE, self.runtime)
        batches = ancestry(champion, self.runtime).start(news.batches).batches
        made = self.round(self.store.resolve(champion), *(self.store.resolve(name) for name in batches))
        examined = [self.add("evaluation", {"model": name}).full_name for name in (champion, made.full_name)]
        held = {"refused": [] if accepted else ["problems loses 0.200"], "win_rate": RATE, "over": "champion"}
        verdict = self.add(
            "verdict",
            dict(zip(("champion", "rejection"), examined, strict=True)),
            champion="rejection" if accepted else "champion",
            candidates={"rejection": held},
        )
        names = dict.fromkeys(("helpfulness", "safety", "reward_report", "sweep", "samples"), "")
        winner = made.full_name if accepted else champion
        played = Round(
            number=2, comparisons=batches[-1], models={"rejection": made.full_name}, evaluations={}, **names,
            verdict=verdict.full_name, champion=winner, standing=examined[accepted],
        )  # fmt: skip
        return Trial(champion=champion, standing=examined[0], made=played, news=news.rows)

    def settle(self, trial: Trial, recipe: RetrainRecipe = RECIPE) -> str:
        return carry_out(trial, decide(trial, "page.html", recipe, self.runtime), self.runtime)

    def aliases(self) -> dict[str, str]:
        """Return alias -> model."""
        return {a: v.artifact(self.store).full_name for a, v in versions(self.runtime).items()}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, empty: to migrate one takes seconds."""
    runtime = Runtime(home=tmp_path_factory.mktemp("mlflow"))
    tracker(runtime)
    return runtime.home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, model: Transformer, tokenizer: Tokenizer, prefect: None, database: Path) -> Home:
    (tmp_path / "var").mkdir()
    shutil.copy(database, tmp_path / "var")
    return Home(Runtime(home=tmp_path / "var"), model, tokenizer)


def test_the_first_champion_is_what_the_gate_kept_and_knows_what_it_was_made_from(home: Home) -> None:
    home.batch("2")  # a later one, which a candidate learned from that the gate refused, is new all the same
    state = retrain(RECIPE.model_copy(update={"least_comparisons": 31}), home.runtime, return_state=True)
    assert state.is_completed() and state.message
    assert state.message.startswith("Nothing new since the champion, chat/0a0000000000: 30 of 31 comparisons")
    assert home.aliases() == {"champion": home.champion.full_name}
    start = ancestry(home.champion.full_name, home.runtime).start(["comparisons/2"])
    assert (start.number, start.base, start.chat) == (2, home.base.full_name, home.sft.full_name)
    assert start.batches == [home.first.full_name, "comparisons/2"]
    assert set(start.judges) == {"helpfulness", "safety"} and len(start.samples) == 1
    assert tokens_recipe(home.champion.full_name, home.runtime).total_tokens == 900


def test_new_is_what_neither_the_champion_nor_a_refused_candidate_has_learned_from(home: Home) -> None:
    champion = champion_of_home(home.runtime)
    assert not news_since(champion, RECIPE, home.runtime).is_enough(RECIPE)
    home.people("week-1", 3)
    news = news_since(champion, RECIPE, home.runtime)
    assert news.is_enough(RECIPE)
    assert (news.comparisons, news.rows) == (3, [{"what": "week-1", "how much": "3 comparisons"}])
    said = home.settle(home.trial(accepted=False))
    assert said.startswith(
        "The champion stays. V2 rejection over champion 60.0 (55.0 to 65.0), refused: problems"
    )
    assert not news_since(champion, RECIPE, home.runtime).is_enough(RECIPE)
    home.people("week-2", 2)
    news = news_since(champion, RECIPE, home.runtime)
    assert news.comparisons == 2 and len(news.batches) == 2  # what was refused is learned from again
    assert home.aliases() == {"champion": champion}


def test_new_documents_are_those_that_the_champions_corpus_has_not(home: Home) -> None:
    champion = champion_of_home(home.runtime)
    home.documents("a")
    assert news_since(champion, RECIPE, home.runtime).corpus == ""
    corpus = home.documents("a", "b", "c")
    news = news_since(champion, RECIPE, home.runtime)
    assert (news.corpus, news.rows[-1]["how much"]) == (corpus.full_name, "1 documents")
    assert not news_since(champion, RetrainRecipe(pretrain=None), home.runtime).corpus


def test_a_better_candidate_is_promoted_and_can_be_rolled_back(home: Home) -> None:
    home.people("week-1", 3)
    trial = home.trial(accepted=True)
    assert home.settle(trial).startswith("Version 2, chat/")
    assert home.aliases() == {"champion": trial.made.champion, "previous": trial.champion}
    assert (
        versions(home.runtime)["champion"].tags[WHY].startswith("promoted: V2 rejection over champion 60.0")
    )
    assert not news_since(trial.made.champion, RECIPE, home.runtime).is_enough(RECIPE)
    home.people("week-2", 2)
    home.settle(home.trial(accepted=False))
    roll_back(home.runtime)
    assert home.aliases() == {"champion": trial.champion, "previous": trial.made.champion}
    assert not news_since(trial.champion, RECIPE, home.runtime).is_enough(RECIPE)  # nothing is made again
    roll_back(home.runtime)
    assert home.aliases()["champion"] == trial.made.champion


@pytest.mark.parametrize("approve", [True, False])
def test_a_candidate_waits_for_a_person(home: Home, approve: bool) -> None:
    with pytest.raises(ConfigError, match="no candidate waits"):
        answer(Approval(approve=True), home.runtime)
    trial = home.trial(accepted=True)
    with pytest.raises(AwaitingPeople, match=r"Shall version 2 .*(?s:.*)llama2 retrain .*--approve REASON"):
        home.settle(trial, ASKING)
    assert home.aliases() == {"champion": trial.champion, "candidate": trial.made.champion}
    assert waiting(home.runtime) == trial
    assert answer(Approval(approve=approve, reason="read 20 answers"), home.runtime) == ""
    said = home.settle(trial, ASKING)  # as by the next run
    assert "read 20 answers (by a person)" in said
    assert home.aliases()["champion"] == (trial.made.champion if approve else trial.champion)
    assert waiting(home.runtime) is None


def test_what_was_held_against_another_champion_is_not_promoted(home: Home) -> None:
    trial = home.trial(accepted=True)
    with pytest.raises(AwaitingPeople):
        home.settle(trial, ASKING)
    register(home.sft.path, "champion", home.runtime)
    changed = Decision(promoted=True, by="person", reason="late")
    assert "has changed while" in carry_out(trial, changed, home.runtime)
    assert home.aliases() == {"champion": home.sft.full_name, "previous": trial.champion}


def test_two_at_once_retrain_once(home: Home) -> None:
    champion_of_home(home.runtime)
    with alone(home.runtime) as other:
        assert not other
        state = retrain(RECIPE, home.runtime, return_state=True)
    assert state.is_completed() and "has been retraining since" in str(state.message)
    with alone(home.runtime) as other:
        assert not other


def test_a_champion_of_unknown_origin_and_one_without_a_base_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no previous version"):
        roll_back(home.runtime)
    save_model(tmp_path / "mine", home.model, home.tokenizer)
    register(tmp_path / "mine", "champion", home.runtime)
    with pytest.raises(
        ArtifactNotFound, match=r"version 1 of llama2-chat was registered from .*mine, which is no"
    ):
        champion_of_home(home.runtime)
    with pytest.raises(ConfigError, match="was not fine-tuned from a base model"):
        ancestry(home.add("chat", {}).full_name, home.runtime).start([])
