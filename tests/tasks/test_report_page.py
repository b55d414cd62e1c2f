"""The page from facts made by hand, as text and in a browser."""

from collections.abc import Callable
from typing import Any

import pytest

from llama2_core.chat import assistant, user
from tasks.report_facts import DialogFact, ReportFacts, StageFact
from tasks.report_page import draw, render
from tasks.report_tables import accuracy_table, safety_table

GRADES = ("significantly better", "better", "slightly better", "negligibly better")
SHARE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
RATE = {**SHARE, "wins": 0.4, "ties": 0.2, "losses": 0.4}
Look = Callable[[str, int], Any]
LONG = "https://example.invalid/" + "a" * 200


@pytest.fixture(scope="module")
def facts() -> ReportFacts:
    suites = ("problems", "problems_sampled", "definitions", "unsafe_answers", "false_refusals")
    grades = {grade: {"right": 3, "n": 4} for grade in GRADES}
    rewards = [f"{domain} reward model {batch}" for batch in (1, 2) for domain in ("helpfulness", "safety")]
    row = {"step": 1.0, "loss": 2.0, "reward": 0.1, "held_out_reward": 0.2, "kl": 0.3}
    multi_turn = (user("Hello there"), assistant("Well met"), user("Who <are> you?"))
    return ReportFacts(
        commands={"make it again": "llama2 run --profile '/tmp/my home/profile-c0ffee123456.yaml'"},
        profile_name="profile-c0ffee123456.yaml",
        profile="recipe:\n  seed: 7\n",
        seed=7,
        stages=[
            StageFact(
                stage="ppo",
                artifact=f"ppo/{'c0ffee' * 10}",
                wall_seconds=3.0,
                cpu_seconds=2.0,
                peak_memory_bytes=10**9,
                energy_watt_hours=1.0,
                co2_grams=0.4,
                energy_method="hours of cores x 15 W",
                parents={"chat": f"chat/{'beef' * 16}"},
            )
        ],
        scores=[{"stage": stage, "problems": "50.0 (40.0 to 60.0)"} for stage in ("base", "sft", "ppo")],
        evaluations={stage: dict.fromkeys(suites, SHARE) for stage in ("sft", "ppo")},
        verdict={"champion": "ppo", "final over sft": RATE, "win_rates": {"ppo over sft": RATE}},
        corpus={
            "documents_read": 1200,
            "documents_kept": 600,
            "characters_kept": 34567,
            "languages": {"en": 1200},
            "drops": [{"step": "quality", "reason": "gopher: too few words", "count": 600}],
        },
        data_card="../artifacts/card/c0ffee/card.html",
        reward_report="../artifacts/reward-report/c0ffee/report.html",
        curves={
            stage: [row, {**row, "step": 2.0}] for stage in ("base", "sft", "rejection", "ppo", *rewards)
        },
        reward_accuracy={
            rewards[0]: {"helpfulness": {**grades, "all": {"right": 12, "n": 16}}},
        },
        reward_curve=[{"n": n, "maximum": n / 4, "median": 0.25} for n in (1, 2, 4)],
        temperature_curve=[
            {"temperature": t, "n": n, "maximum": n * t / 4, "median": 0.25}
            for t in (0.8, 1.2)
            for n in (1, 2)
        ],
        ppo_findings=[{"iteration": 4, "iterations": 2, "stops": True, "says": "KL is 31 <nats>."}],
        comparisons={
            "comparisons 1": {
                "comparisons": 200,
                "equal_or_undecided": 3,
                "grades": dict.fromkeys(GRADES, 50),
                "safety_bins": {"both safe": 10, "both unsafe": 30},
            }
        },
        dialogs=[
            DialogFact(kind="conversation", dialog=multi_turn, answers={"sft": "Nobody.", "ppo": LONG}),
            DialogFact(kind="problem", dialog=(user("2 + 3?"),), answers={"base": "It is 5."}),
        ],
        wall_seconds=60.0,
        energy_watt_hours=1.0,
        co2_grams=0.4,
        energy_methods=["hours of cores x 15 W"],
        peak_memory_bytes=1_200_000_000,
    )


@pytest.fixture(scope="module")
def page(facts: ReportFacts) -> str:
    return render(facts, draw(facts))


def test_the_page_says_how_to_make_it_again(page: str) -> None:
    assert "llama2 run --profile &#39;/tmp/my home/profile-c0ffee123456.yaml&#39;" in page
    assert '<pre tabindex="0">recipe:\n  seed: 7\n' in page


def test_samples_are_drawn_against_number_and_temperature(page: str) -> None:
    assert "Llama 2 Figure 7" in page and "Llama 2 Figure 8" in page
    assert "maximum of 2" in page and "median of 2" in page and "maximum of 1" not in page


def test_dialogs_show_the_base_model_and_earlier_turns(page: str) -> None:
    assert "<b>base</b>It is 5." in page
    assert page.count("<b>base</b>–") == 1
    assert "user: Hello there" in page and "assistant: Well met" in page and "Who &lt;are&gt; you?" in page


def test_the_diagnosis_of_ppo_is_on_the_page(page: str, facts: ReportFacts) -> None:
    assert "<b>Iteration 4, where it stopped</b> (2 in all): KL is 31 &lt;nats&gt;." in page
    sound = facts.model_copy(update={"ppo_findings": []})
    assert "Every measure stayed within its bound." in render(sound, [])


def test_measures_are_called_what_they_are(page: str) -> None:
    assert "1.2 GB of memory in any one process" in page
    assert "1.0 Wh and 0.4 g CO₂ (hours of cores x 15 W)" in page
    assert "ranking loss, plus the auxiliary loss" in page
    assert "25.0 (50 of 200)" in page


def test_accuracy_over_all_grades_has_an_interval(facts: ReportFacts) -> None:
    [row] = accuracy_table(facts.reward_accuracy)
    assert row["better"] == "75.0 (3 of 4)"
    assert row["all"] == "75.0 (50.5 to 89.8), n = 16"  # Wilson's
    none = {"right": 0, "n": 0}
    [empty] = accuracy_table({"m": {"safety": {**dict.fromkeys(GRADES, none), "all": none}}})
    assert empty["all"] == "–"


def test_safety_bins_stand_above_the_papers(facts: ReportFacts) -> None:
    ours, paper = safety_table(facts.comparisons)
    assert list(ours) == [
        "batch",
        "chosen safe, other unsafe",
        "both safe",
        "both unsafe",
        "chosen unsafe, other safe",
    ]
    assert list(ours.values())[1:] == ["0.0 (0 of 40)", "25.0 (10 of 40)", "75.0 (30 of 40)", "0.0 (0 of 40)"]
    assert list(paper.values()) == ["Llama 2", "18", "47", "35", "left out"]


@pytest.mark.parametrize("width", [1400, 420])
def test_a_browser_shows_it_without_overflow_request_or_error(page: str, width: int, look: Look) -> None:
    assert "../artifacts/card/c0ffee/card.html" in page
    assert "../artifacts/reward-report/c0ffee/report.html" in page
    seen = look(page, width)
    assert seen.overflow_pixels <= 0
    assert seen.requests == []
    assert seen.said == []
