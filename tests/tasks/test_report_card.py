"""The report card of models that were really evaluated, in a browser; and the model card that leaves with one."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("lm_eval", reason="lm-eval, the extra `evaluation`, is not installed")

from llama2_core.config import ModelConfig
from llama2_core.errors import ConfigError
from llama2_core.interop.convert import convert
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Artifact, Store
from storage.benchmark_tables import BENCHMARK_SAMPLES
from storage.metrics import MetricLog
from storage.schemas import read_table
from tasks.benchmark_data import DATA, add, newest
from tasks.benchmark_recipe import BenchmarkRecipe, ContaminationRecipe, TaskRecipe
from tasks.benchmark_stage import benchmarks
from tasks.card_facts import Known, known_of
from tasks.card_tables import limits, missing, model_table, scored
from tasks.contamination_stage import contamination
from tasks.jobs import FORMAT_VERSIONS
from tasks.model_card import known_at, model_card
from tasks.report_card import chosen_models, write
from tasks.runtime import Execution, Runtime
from tasks.stage import Stage
from tasks.suite_tables import suite_table
from tests.tasks import benchmark_files

HOSTILE = "<script>alert(1)</script>"
ENERGY = {"energy_kwh": 0.002, "kg_co2": 0.0008, "energy_method": "hours of cores x 15 W"}


class Shop:
    """A store that artifacts are put into as stages would."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def put(
        self, kind: str, fill: Callable[[Path], dict], recipe: dict | None = None, **parents: Artifact
    ) -> Artifact:
        digest = hashlib.sha256(str(len(self.store.artifacts())).encode()).hexdigest()
        names = {role.replace("_", " "): parent.full_name for role, parent in parents.items()}
        with self.store.building(kind, digest) as partial:
            facts = {"wall_seconds": 36.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1, **ENERGY}
            facts |= {"recipe": recipe or {}, "parents": names, "summary": fill(partial)}
            return self.store.commit(kind, digest, version=FORMAT_VERSIONS[kind], **facts)

    def evaluate(self, model: Artifact, *names: str, **settings: Any) -> Artifact:
        recipe = BenchmarkRecipe(tasks=tuple(TaskRecipe(name=name) for name in names), **settings)
        data = {f"{DATA}{name}": artifact for name, artifact in newest(self.store).items()}

        def ask(folder: Path) -> dict:
            parents = {"model": model.path, **{role: artifact.path for role, artifact in data.items()}}
            return benchmarks(Stage(folder, recipe.model_dump(mode="json"), 0, parents, Execution(slots=8)))

        return self.put("benchmarks", ask, {**recipe.model_dump(mode="json"), "seed": 0}, model=model, **data)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A store with small benchmarks."""
    folder = tmp_path_factory.mktemp("cards")
    made = Shop(folder / "artifacts")
    add([benchmark_files.write(folder / "files")], made.store, partial=True)
    return made


@pytest.fixture(scope="module")
def models(
    shop: Shop, tokenizer: Tokenizer, write_tokens: Callable[[Path, np.ndarray], None]
) -> dict[str, Artifact]:
    """A base model that was trained on one of its benchmarks, a chat model of it, and one from outside."""
    import torch

    from llama2_core.model import initialise

    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=4, n_kv_heads=2, multiple_of=16, max_seq_len=96
    )  # fmt: skip

    def model(seed: int, **summary: int) -> Callable[[Path], dict]:
        def fill(folder: Path) -> dict:
            network = Transformer(config)
            initialise(network, config, torch.Generator().manual_seed(seed))
            save_model(folder, network, tokenizer)
            log = MetricLog(folder / "metrics.jsonl")
            for step in range(1, 5):
                log.append({"step": step, "of": 4, "loss": 5 / step, "reward": step / 5})
            return summary

        return fill

    own = shop.put("base", model(2), {"content": {"config.json": "abc"}})
    asked = shop.evaluate(own, "svamp", limit=10)
    seen = {
        row["prompt"] + row["target"] for row in read_table(asked.file("samples.parquet"), BENCHMARK_SAMPLES)
    }

    def trained_on(folder: Path) -> dict:
        tokens = [token for text in sorted(seen) for token in [1, *tokenizer.encode(text), 2]]
        tokens += [3] * (20 * 40 - len(tokens) % 40)
        write_tokens(folder, np.array(tokens).reshape(-1, 40))
        return {}

    def vocabulary(folder: Path) -> dict:
        (folder / "tokenizer.model").write_bytes(tokenizer.model)
        return {}

    corpus = shop.put("corpus", lambda folder: {"languages": {"en": 98, "de": 1, "unknown": 1, "fr": 0}})
    pieces = shop.put("tokenizer", vocabulary, corpus=corpus)
    tokens = shop.put("tokens", trained_on, corpus=corpus, tokenizer=pieces)
    base = shop.put("base", model(0, tokens=12_000), tokens=tokens, tokenizer=pieces)
    comparisons = shop.put("comparisons", lambda folder: {}, {"annotator": {"kind": "simulated"}})
    chat = shop.put("ppo", model(1), base=base, comparisons=comparisons)
    for trained in (base, chat):
        found = shop.evaluate(trained, "svamp", "hellaswag", "piqa", limit=10)
        stage = {"benchmarks": found.path, "tokens": tokens.path, "tokenizer": pieces.path}
        recipe = ContaminationRecipe(lengths=(10, 20)).model_dump(mode="json")
        shop.put(
            "contamination",
            lambda folder, stage=stage, recipe=recipe: contamination(
                Stage(folder, recipe, 0, stage, Execution())
            ),
            recipe,
            benchmarks=found,
            tokens=tokens,
        )
    shop.evaluate(base, "hellaswag", limit=5)
    fact = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    shop.put("evaluation", lambda folder: {"problems": fact}, model=chat)
    return {"base": base, "ppo": chat, HOSTILE: own}


@pytest.fixture(scope="module")
def known(shop: Shop, models: dict[str, Artifact]) -> list[Known]:
    return [known_of(label, artifact, shop.store) for label, artifact in models.items()]


def test_scores_stand_beside_the_papers_with_intervals_and_marks(known: list[Known]) -> None:
    ten, five = (found for found in scored(known) if found.title == "table3")
    assert ten.conditions.startswith("The first 10 questions of each task, as plain text, after BOS; lm-eval")
    assert five.conditions.startswith("The first 5 questions")
    rows = {row["task"]: row for row in ten.table}
    hellaswag = rows["hellaswag"]
    assert (hellaswag["7B"], hellaswag["70B"], hellaswag["of"]) == ("77.2", "85.3", "Table 20")
    for label in ("base", "ppo"):
        value, low, _, high = hellaswag[label].replace("(", "").replace(")", "").split()
        assert float(low) < float(value) < float(high) or float(value) in (0, 100)
    assert hellaswag[HOSTILE] == rows["squad"]["base"] == "not run"
    assert (hellaswag["n"], rows["squad"]["n"]) == ("10", "")
    commonsense = next(
        row for row in ten.table if row["group"].startswith("Commonsense") and row["task"] == "mean"
    )
    assert (commonsense["base"], commonsense["7B"], commonsense["of"]) == ("incomplete", "63.9", "Table 3")
    tools = {row["task"]: row for found in scored(known) if found.title == "tools" for row in found.table}
    assert tools["svamp"]["base"].endswith(" †") and tools["svamp"][HOSTILE].endswith(" ?")
    assert tools["svamp_calculator"]["70B"] == "chat 69.2"


def test_the_mean_of_a_group_has_the_interval_of_independent_scores() -> None:
    """0.4 and 0.8 with standard errors of 0.03 and 0.04: 0.6 plus or minus 1.96 x 0.05 / 2."""

    def row(task: str, value: float, stderr: float) -> dict:
        about = {
            "metric": "pass@1",
            "filter": "none",
            "shots": 0,
            "prompt_hash": "ab",
            "low": 0.1,
            "high": 0.9,
            "n": 9,
        }
        return {"task": task, "value": value, "stderr": stderr, **about}

    rows = [row("humaneval_sandboxed", 0.4, 0.03), row("mbpp_sandboxed", 0.8, 0.04)]
    found = {row["task"]: row for row in suite_table("table3", {"mine": rows})}
    code = next(row for row in suite_table("table3", {"mine": rows}) if row["task"] == "mean")
    assert code["mine"] == "60.0 (55.1 to 64.9)"
    assert found["mbpp_sandboxed"]["shots"] == "0 (paper: 3)"


def test_what_is_missing_is_told_with_its_command(known: list[Known]) -> None:
    commands = missing(known, ["--home", "my var"])
    assert commands["base, safety: all"].endswith("--suite safety --available --home 'my var'")
    absent = ("asdiv_calculator", "svamp_calculator", "mawps_calculator", "asdiv_answered", "mawps")
    assert f"ppo, tools: {', '.join(absent)}" in commands


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_holds_everything_and_asks_for_nothing(
    known: list[Known], look: Callable[[str, int], Any], tmp_path: Path, width: int
) -> None:
    summary = write(known, [], tmp_path)
    page = (tmp_path / "card.html").read_text()
    assert summary == {"models": 3, "scores": 7 + 5 + 1, "suites": ["table3", "tools"]}
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert page.count("<svg") == 2  # of pretraining and PPO
    for words in ("Table 51", "12,000", "at least 20% of the tokens were found", "50.0 (40.0 to 60.0)",
                  "simulated annotator", "not tested on safety", "1,720,320", "llama2 evaluate"):  # fmt: skip
        assert words in page, words
    assert look(page, width) == (0, [], [])


def test_costs_are_those_of_the_whole_lineage(known: list[Known]) -> None:
    """Corpus, tokenizer, tokens, base, comparisons and PPO, of 36 s and 2 Wh each; of the own model's the last."""
    rows = {row["model"]: row for row in model_table(known)}
    assert (rows["ppo"]["hours"], rows["ppo"]["kWh"], rows["ppo"]["kg CO₂"]) == ("0.06", "0.012", "0.0048")
    assert (rows[HOSTILE]["kWh"], rows[HOSTILE]["training tokens"]) == ("≥ 0.002", "unknown")
    assert (rows["Llama 2 7B"]["parameters"], rows["Llama 2 7B"]["kWh"]) == ("6,738,415,616", "73,728")


def test_a_model_that_nothing_is_known_of_has_a_card_too(shop: Shop, model: Transformer, tokenizer: Tokenizer,
                                                         tmp_path: Path) -> None:  # fmt: skip
    def fill(folder: Path) -> dict:
        save_model(folder, model, tokenizer)
        return {}

    bare = Shop(tmp_path / "artifacts")
    lost = shop.put("tokens", lambda folder: {})
    alone = known_of("alone", bare.put("base", fill, tokens=lost), bare.store)
    assert alone.gone == [lost.full_name]
    assert write([alone], [], tmp_path) == {"models": 1, "scores": 0, "suites": ["table3"]}
    page = (tmp_path / "card.html").read_text()
    assert "Nothing of it was run" in page and "Not in the store any more" in page
    assert any("not tested on any published benchmark" in said for said in limits(alone))


def test_what_is_no_language_model_is_refused(shop: Shop, models: dict[str, Artifact]) -> None:
    with pytest.raises(ConfigError, match=r"words: corpus/\w+ is no language model; a card is about one"):
        known_of("words", shop.store.resolve("corpus"), shop.store)


def test_a_model_stands_on_a_card_once(shop: Shop, models: dict[str, Artifact]) -> None:
    runtime = Runtime(home=shop.store.root.parent)
    name = models["ppo"].full_name
    assert chosen_models([name], runtime) == {name: name}
    with pytest.raises(ConfigError, match=r"ppo, ppo/.*: a model, or its label, is given twice"):
        chosen_models(["ppo", name], runtime)


def test_the_model_card_is_hugging_faces(known: list[Known]) -> None:
    from huggingface_hub import ModelCard

    text = model_card(known[1], "huggingface")
    card = ModelCard(text)
    about = card.data.to_dict()
    assert (about["library_name"], about["language"]) == ("transformers", ["en", "de"])
    assert about["co2_eq_emissions"] == {
        "emissions": 4.8, "source": "hours of cores x 15 W", "training_type": "fine-tuning"
    }  # fmt: skip
    results = {(each.dataset_type, each.metric_type): each for each in card.data.eval_results or ()}
    found = results["svamp", "exact_match"]
    assert found.dataset_args == {"num_few_shot": 0}
    assert (found.metric_args["n"], found.metric_args["contamination"], found.metric_args["limit"]) == (
        10,
        "†",
        10,
    )
    assert found.metric_args["low"] <= found.metric_value <= found.metric_args["high"]
    assert len(found.metric_args["prompt_hash"]) == 64 and found.metric_args["harness"] in text
    for heading in ("Model details", "Intended use", "Hardware, energy and carbon", "Training data", "Evaluation",
                    "Limits", "Lineage"):  # fmt: skip
        assert f"\n## {heading}\n" in text
    assert "| Commonsense reasoning | hellaswag |" in text


def test_a_card_goes_with_every_export(
    known: list[Known], models: dict[str, Artifact], tmp_path: Path
) -> None:
    source = models["ppo"].path
    for form in ("huggingface", "meta", "native", "gguf"):
        name = tmp_path / f"{form}.gguf" if form == "gguf" else tmp_path / form
        convert(source, name, form, card=model_card(known[1], form))
        left = tmp_path / "gguf.md" if form == "gguf" else name / "README.md"
        front = left.read_text().split("---\n")[1]
        assert yaml.safe_load(front)["model-index"][0]["name"] == "ppo"
    (tmp_path / "gguf.gguf").unlink()
    with pytest.raises(ConfigError, match=r"gguf\.md exists already, where the model card would be"):
        convert(source, tmp_path / "gguf.gguf", "gguf", card="other")


def test_scores_do_not_outlive_a_merge_or_a_change_of_place(
    shop: Shop, known: list[Known], models: dict[str, Artifact], tmp_path: Path
) -> None:
    merged = model_card(known[1], "huggingface", ["mine"])
    assert "model-index" not in merged and "**Adapters** that were merged on the way out: mine" in merged
    assert known_at("x", models["ppo"].path, shop.store).scores.keys() == known[1].scores.keys()
    convert(models["ppo"].path, tmp_path / "away", "native")
    away = known_at("away", tmp_path / "away", shop.store)
    assert (away.artifact, away.scores) == (None, {})
    assert "Not known." in model_card(away, "meta")
