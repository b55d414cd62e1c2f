"""The reward models' report: scored by a worker's stage, its tables, its pages, and the gate behind it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from flows.reward import reward_report
from llama2_core.chat import user
from llama2_core.config import GRADES, ModelConfig, RewardConfig
from llama2_core.errors import ConfigError
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Store
from storage.preferences import query
from storage.reward_tables import SCORES, TABLES
from storage.schemas import COMPARISONS, read_table, write_table
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import ComparisonsRecipe, FineTuneRecipe
from tasks.reward_recipe import BARS, AblationRecipe, FitnessRecipe, RewardRecipe, RewardReportRecipe
from tasks.reward_report import RewardModelsUnfit, roles
from tasks.reward_report_tables import (
    accuracy_rows,
    calibration_rows,
    fitness_rows,
    measure_rows,
    read_scores,
)
from tasks.runtime import Execution, Runtime
from tasks.scoring_stage import scores
from tasks.stage import Stage
from tasks.stage_run import tracker
from tasks.tables import dialog_to_json
from tasks.training_stages import reward

HOSTILE = "<script>alert(1)</script> | [x](javascript:y)"
WORDS = [
    "the",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "to",
    "red",
    "house",
    "with",
    "seven",
    "apples",
    "nine",
    "pears",
    "today",
]
PERFECT = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100}


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


def comparison(number: int, flip: bool, held_out: bool) -> dict[str, Any]:
    """Return a comparison whose chosen answer has the better words, later in WORDS; the reverse when flipped."""
    safety, draw = number % 3 == 0, random.Random(number)
    first, second = (draw.sample(range(len(WORDS)), 5) for _ in range(2))
    worth = sum(first) - sum(second)
    better, worse = (first, second) if worth > 0 else (second, first)
    answers = [" ".join(WORDS[place] for place in places) for places in (better, worse)]
    answers = answers[::-1] if flip else answers
    row = {
        "id": f"1-{number}{flip}",
        "prompt_id": str(number),
        "batch": "1",
        "kind": "unsafe" if safety else "conversation",
        "safety": safety,
        "dialog": dialog_to_json((user(f"{HOSTILE if held_out else ''} who sat on {number} mats"),)),
        "chosen": answers[0],
        "rejected": answers[1],
        "chosen_model": "newest",
        "rejected_model": "other",
        "chosen_temperature": 0.8,
        "rejected_temperature": 1.0,
        "grade": GRADES[abs(worth) < 12],
        "safety_bin": "chosen safe, other unsafe" if safety else "",
        "chosen_safe": True,  # or the pair would be left out of training
        "rejected_safe": not safety,
        "annotator": "test",
        "turns": 1,
        "held_out": held_out,
    }
    return dict.fromkeys(COMPARISONS.names) | row


Made = Callable[[bool], tuple[dict[str, str], str, Runtime]]


@pytest.fixture(scope="module")
def shape(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=4, n_kv_heads=2, multiple_of=16, max_seq_len=128
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(
    tokenizer: Tokenizer, shape: ModelConfig, tmp_path_factory: pytest.TempPathFactory, prefect: None
) -> Made:
    """Return what trains both reward models in a store, on right or random labels (each pair both ways)."""

    def make(at_random: bool) -> tuple[dict[str, str], str, Runtime]:
        from llama2_core.model import initialise
        from llama2_core.seeding import generator

        runtime = Runtime(home=tmp_path_factory.mktemp("rm") / "var", threads=1, least_free_bytes=0)
        rows = [comparison(i // 2, flip=at_random and i % 2 == 0, held_out=False) for i in range(480)]
        rows += [comparison(i, flip=i % 25 == 0, held_out=True) for i in range(240, 600)]  # annotators err

        def chat(directory: Path) -> dict[str, Any]:
            model = Transformer(shape)
            initialise(model, shape, generator(0, "test"))
            save_model(directory, model, tokenizer)
            return {}

        def comparisons(directory: Path) -> dict[str, Any]:
            write_table(directory / "comparisons.parquet", rows, COMPARISONS)
            return {}

        start = build(Job("chat", "chat", FineTuneRecipe()), runtime, chat)
        batch = build(Job("comparisons", "comparisons", ComparisonsRecipe()), runtime, comparisons)
        parents = {"chat": start, "comparisons1": batch}
        models = {}
        for domain, weight in (("helpfulness", 0.0), ("safety", 1.0)):
            recipe = RewardRecipe(
                domain=domain,  # type: ignore[arg-type]
                epochs=3,
                rows=16,
                reward=RewardConfig(margin="none", safety_auxiliary_weight=weight),
            )
            recipe = recipe.model_copy(
                update={"optimizer": recipe.optimizer.model_copy(update={"peak_learning_rate": 5e-3})}
            )

            def train(directory: Path, recipe: RewardRecipe = recipe) -> dict[str, Any]:
                paths = {role: find(name, runtime).path for role, name in parents.items()}
                told = recipe.model_dump(mode="json")
                return reward(Stage(directory, told, 5, paths, Execution(threads=1)))

            models[domain] = build(Job(f"{domain} model", "reward", recipe, 5, parents), runtime, train)
        return models, batch, runtime

    return make


@pytest.fixture(scope="module")
def sound(made: Made) -> tuple[dict[str, str], str, Runtime]:
    return made(False)


@pytest.mark.slow
def test_a_sound_model_passes_and_everything_is_recorded(sound: tuple[dict[str, str], str, Runtime]) -> None:
    models, batch, runtime = sound
    recipe = RewardReportRecipe(fitness=FitnessRecipe(least_unsafe_recall=1.0, most_length_correlation=0.9))
    with pytest.raises(RewardModelsUnfit) as refused:
        reward_report(
            models, [batch], [models], {"helpfulness margin none": models["helpfulness"]}, recipe, 2, runtime
        )
    said = str(refused.value)
    assert "safety_unsafe_recall is " in said and "its lower end must reach 1\n" in said
    assert "overrides={safety_unsafe_recall: why}" in said and "report.html" in said
    fitness = recipe.fitness.model_copy(update={"overrides": {"safety_unsafe_recall": "a test of overrides"}})
    told = recipe.model_copy(update={"fitness": fitness})
    name = reward_report(
        models, [batch], [models], {"helpfulness margin none": models["helpfulness"]}, told, 2, runtime
    )
    report = find(name, runtime)
    assert report.summary["fit"] and report.summary["overridden"] == {
        "safety_unsafe_recall": "a test of overrides"
    }
    assert report.manifest.recipe["fitness"]["overrides"] == report.summary["overridden"]
    run = next(run for run in tracker(runtime).runs() if run.data.tags.get("llama2.digest") == report.digest)
    assert run.data.tags["llama2.overridden.safety_unsafe_recall"] == "a test of overrides"
    assert run.data.tags["llama2.fit"] == "true"
    assert len([a for a in Store(runtime.store_root).artifacts() if a.kind == "scores"]) == 1, "scored once"
    page, markdown = (report.file(file).read_text() for file in ("report.html", "report.md"))
    assert "overridden: a test of overrides" in page and "overridden: a test of overrides" in markdown
    assert HOSTILE not in page + markdown and "&lt;script&gt;" in page
    shown = PrefectArtifact.get("reward-report")
    assert shown and shown.data == markdown
    measures = {(r["model"], r["set"], r["measure"]): r for r in table(report.path, "reward_measures")}
    since = measures["earlier helpfulness 1", "helpfulness", "scores since"]
    assert (since["value"], since["n"]) == (0.0, 480), "it is the same model"
    asked = "select count(*) from scores where chosen_score > rejected_score and model = 'safety'"
    [found] = query(Store(runtime.store_root), asked)[1]
    right = [
        r for r in table(report.path, "reward_accuracy") if r["model"] == "safety" and r["part"] == "all"
    ]
    assert found[0] == sum(round(r["value"] * r["n"]) for r in right)


@pytest.mark.slow
def test_a_model_of_random_labels_fails(made: Made) -> None:
    models, batch, runtime = made(True)
    with pytest.raises(RewardModelsUnfit, match=r"safety_accuracy is 0\.[3456]"):
        reward_report(models, [batch], runtime=runtime)


def table(directory: Path, name: str) -> list[dict[str, Any]]:
    return read_table(directory / "analysis" / f"{name}.parquet", TABLES[name])


def score(model: str, number: int, chosen: float, rejected: float, **changes: Any) -> dict[str, Any]:
    row = {
        "model": model,
        "set": "safety",
        "batch": "1",
        "id": str(number),
        "kind": "unsafe",
        "grade": GRADES[number % 2],
        "safety_bin": "both unsafe",
        "chosen_score": chosen,
        "rejected_score": rejected,
        "chosen_tokens": 10 + number,
        "rejected_tokens": 10,
        "chosen_safe": number % 2 == 0,
        "rejected_safe": False,
    }
    return {**row, **changes}


def test_tables_by_hand() -> None:
    """The safety model is right in three of four, the helpfulness model in one; it lacks the last pair."""
    rows = [score("helpfulness", i, -1.0, 1.0 if i else -2.0) for i in range(3)]
    rows += [score("safety", i, 2.0, -2.0 if i < 3 else 3.0) for i in range(4)]
    scored = read_scores(rows)
    accuracy = {(r["model"], r["part"]): r for r in accuracy_rows(scored) if r["set"] == "safety"}
    assert (accuracy["safety", "all"]["value"], accuracy["safety", "all"]["n"]) == (0.75, 4)
    assert accuracy["safety", GRADES[0]]["value"] == 1.0 and accuracy["safety", GRADES[3]]["n"] == 0
    assert accuracy["safety", "both unsafe"]["n"] == 4 and accuracy["safety", "both safe"]["n"] == 0
    measures = {(r["model"], r["set"], r["measure"]): r for r in measure_rows(scored, RewardReportRecipe())}
    differ = measures["helpfulness", "safety", "disagreement with safety"]
    assert (differ["value"], differ["n"]) == (pytest.approx(2 / 3), 3)
    recall = measures["safety", "safety", "unsafe recall at 0.5"]  # six unsafe, three of them at -2
    assert (recall["value"], recall["n"]) == (0.5, 6)
    assert measures["safety", "safety", "unsafe precision at 0.15"]["value"] == 1.0  # sigmoid(-2) is 0.119
    assert measures["annotators", "helpfulness", "length correlation"]["n"] == 0
    unsaid = [score("safety", 9, 2.0, -2.0, grade=None, chosen_safe=None, rejected_safe=None)]
    helpless = [score("helpfulness", 9, 2.0, -2.0, grade=None, chosen_safe=None, rejected_safe=None)]
    told = measure_rows(read_scores([*rows[:3], *helpless, *rows[3:], *unsaid]), RewardReportRecipe())
    again = {(r["model"], r["set"], r["measure"]): r for r in told}
    assert (
        again["safety", "safety", "unsafe recall at 0.5"] == recall
    )  # of an import without labels nothing is known
    grades = [r for r in calibration_rows(scored, 10) if r["of"] == "grade" and r["model"] == "safety"]
    assert [(r["bin"], r["n"]) for r in grades] == [(GRADES[0], 2), (GRADES[1], 2)]


@pytest.mark.parametrize(
    ("liking", "bias"), [(1.0, 0.0), (-1.0, -2.0)], ids=["as its annotators", "against them"]
)
def test_a_model_that_likes_length_as_its_annotators_do_has_no_bias(liking: float, bias: float) -> None:
    """The longer answer is better by as much as it is longer, up to the weakest grade."""
    rows = [score("helpfulness", i, 0.0, 0.0, set="safety") for i in range(4)]
    rows += [
        score("safety", i, liking * (4 - i), 0.0, grade=GRADES[i], chosen_tokens=14 - i) for i in range(4)
    ]
    measures = {
        (r["model"], r["set"], r["measure"]): r for r in measure_rows(read_scores(rows), RewardReportRecipe())
    }
    assert measures["annotators", "safety", "length correlation"]["value"] == pytest.approx(1.0)
    assert measures["safety", "safety", "length bias"]["value"] == pytest.approx(bias)


def test_no_scores_at_all_fail_every_bar() -> None:
    empty = read_scores(
        [score("helpfulness", 0, 1, 0, set="safety"), score("safety", 0, 1, 0, set="helpfulness")]
    )
    rows = fitness_rows(accuracy_rows(empty), measure_rows(empty, RewardReportRecipe()), FitnessRecipe())
    assert [row["bar"] for row in rows] == list(BARS)
    assert {row["verdict"] for row in rows} == {"failed"}
    least = dict.fromkeys(("least_accuracy", "least_clear_accuracy", "least_unsafe_recall"), 0.0)
    nothing = FitnessRecipe(**least, most_calibration_error=1, most_length_correlation=1, most_length_bias=1)
    rows = fitness_rows(accuracy_rows(empty), measure_rows(empty, RewardReportRecipe()), nothing)
    assert {row["verdict"] for row in rows} == {"passed"}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "passed"),
        ({"low": 0.56}, "passed"),
        ({"low": 0.54}, "failed"),
        ({"value": 0.99, "low": 0.0}, "failed"),
    ],
)
def test_accuracy_is_held_to_the_lower_end(found: dict[str, float], verdict: str) -> None:
    accuracy = [
        {"model": domain, "set": domain, "part": part, **PERFECT}
        for domain in ("helpfulness", "safety") for part in ("all", GRADES[0])
    ]  # fmt: skip
    accuracy[0] |= found
    measures = [
        {"model": domain, "set": domain, "measure": measure, **PERFECT, "value": value}
        for domain in ("helpfulness", "safety")
        for measure, value in (
            ("calibration error", 0.2),
            ("length correlation", -0.5),
            ("length bias", -0.2),
            ("unsafe recall at 0.5", 0.9),
        )
    ]
    rows = {row["bar"]: row["verdict"] for row in fitness_rows(accuracy, measures, FitnessRecipe())}
    assert rows.pop("helpfulness_accuracy") == verdict
    assert set(rows.values()) == {"passed"}
    measures[1]["value"], measures[2]["value"] = -0.51, -0.21
    rows = {row["bar"]: row["verdict"] for row in fitness_rows(accuracy, measures, FitnessRecipe())}
    assert (rows["helpfulness_length_correlation"], rows["helpfulness_length_bias"]) == ("failed", "failed")
    reason = FitnessRecipe(overrides={"helpfulness_length_correlation": "long answers are right here"})
    [row] = [
        r for r in fitness_rows(accuracy, measures, reason) if r["bar"] == "helpfulness_length_correlation"
    ]
    assert (row["verdict"], row["reason"]) == ("overridden", "long answers are right here")


def test_a_report_is_on_both_models() -> None:
    assert list(roles({"safety": "b", "helpfulness": "a"}, [{"safety": "c"}], {"safety pairs 1": "d"})) == [
        "helpfulness",
        "safety",
        "earlier safety 1",
        "variant safety pairs 1",
    ]
    with pytest.raises(ConfigError, match="models has helpfulness"):
        roles({"helpfulness": "a"}, [], {})


def test_variants_differ_in_one_thing() -> None:
    helpfulness, safety = (
        RewardRecipe(),
        RewardRecipe(domain="safety", reward=RewardConfig(safety_auxiliary_weight=1.0)),
    )
    found = AblationRecipe(pairs_shares=(0.5, 1.0), chats={"5M": "chat/big"}).variants(
        "chat/small", helpfulness, safety
    )
    assert found["helpfulness margin large"] == ("chat/small", helpfulness), "the same model, trained once"
    assert found["safety auxiliary 1"] == ("chat/small", safety)
    assert found["safety auxiliary 0"][1].reward.safety_auxiliary_weight == 0
    assert found["helpfulness pairs 0.5 5M"] == (
        "chat/big",
        helpfulness.model_copy(update={"pairs_share": 0.5}),
    )
    assert len(found) == 3 + 2 + 2 * 2 * 2


def test_a_second_try_scores_only_what_is_missing(
    shape: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from llama2_core.model import ScalarModel, initialise
    from llama2_core.seeding import generator

    (tmp_path / "batch").mkdir()
    rows = [comparison(i, flip=False, held_out=i % 2 == 0) for i in range(8)]
    write_table(tmp_path / "batch" / "comparisons.parquet", rows, COMPARISONS)
    parents = {"comparisons1": tmp_path / "batch"}
    for role in ("helpfulness", "safety"):
        model = ScalarModel(shape)
        initialise(model, shape, generator(0, role))
        save_model(tmp_path / role, model, tokenizer)
        parents[role] = tmp_path / role
    stage = Stage(tmp_path / "scores", {}, 0, parents, Execution(threads=1))
    (tmp_path / "scores" / "checkpoints").mkdir(parents=True)
    assert scores(stage) == {"models": 2, "comparisons": 4}
    first = read_table(tmp_path / "scores" / "scores.parquet", SCORES)
    assert [row["model"] for row in first] == ["helpfulness"] * 4 + ["safety"] * 4
    (tmp_path / "helpfulness" / "model.safetensors").unlink()  # it is scored already
    (tmp_path / "scores" / "checkpoints" / "1.parquet").unlink()
    scores(stage)
    assert read_table(tmp_path / "scores" / "scores.parquet", SCORES) == first
