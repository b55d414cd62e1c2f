"""What the report says of counts that are known."""

from llama2_core.evaluation.statistics import proportion
from tasks.ghost_report import least_ratios, page, reached
from tasks.ghost_stage import by_turn


def rows(turn: int, kept: int, of: int) -> list[dict]:
    return [
        {
            "turn": turn,
            "constraints": ["figure/Bach", "hobby/chess"],
            "kept": ["figure/Bach", "hobby/chess"] if place < kept else ["figure/Bach"],
            "obeyed": place < kept,
        }
        for place in range(of)
    ]


WITHOUT = by_turn(rows(1, 10, 10) + rows(6, 1, 100), [1, 6, 20])
WITH = by_turn(rows(1, 10, 10) + rows(6, 90, 100), [1, 6, 20])


def test_ratios_are_of_the_unfavourable_ends() -> None:
    assert reached(WITH) == ["turn 1", "turn 6"]
    ratio = least_ratios({"without": WITHOUT, "with": WITH})
    assert ratio.keys() == {"turn 1", "turn 6"}
    assert ratio["turn 6"] == proportion(90, 100).low / proportion(1, 100).high
    assert ratio["turn 1"] < 1


def test_the_page_has_every_turn_and_kind() -> None:
    text = page({"without": WITHOUT, "with": WITH})
    assert (
        "| with | 100.0 (72.2 to 100.0), n = 10 | 90.0 (82.6 to 94.5), n = 100 | beyond the context |" in text
    )
    assert "| without, figure | 100.0 (72.2 to 100.0), n = 10 | 100.0 (96.3 to 100.0), n = 100 |" in text
    assert "| without, hobby | 100.0 (72.2 to 100.0), n = 10 | 1.0 (0.2 to 5.4), n = 100 |" in text
    assert "turn 6 15.2" in text
