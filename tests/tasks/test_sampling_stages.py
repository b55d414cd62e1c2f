"""What a comparison is held out by."""

from tasks.tables import held_out_draw


def test_a_prompt_is_held_out_in_every_batch_or_in_none() -> None:
    held_out = [held_out_draw(7, f"train-{i}") < 0.15 for i in range(2000)]
    assert held_out == [held_out_draw(7, f"train-{i}") < 0.15 for i in range(2000)]
    assert 0.12 < sum(held_out) / len(held_out) < 0.18
    assert held_out != [held_out_draw(8, f"train-{i}") < 0.15 for i in range(2000)]
