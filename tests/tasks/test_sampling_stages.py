"""What a comparison is held out by."""

from llama2_core.chat import user
from tasks.sampling_stages import is_held_out
from tasks.tables import Prompt


def test_a_prompt_is_held_out_in_every_batch_or_in_none() -> None:
    prompts = [Prompt(f"train-{i}", "problem", False, (user("?"),), {}, [1]) for i in range(2000)]
    held_out = [is_held_out(7, prompt, 0.15) for prompt in prompts]
    assert held_out == [is_held_out(7, prompt, 0.15) for prompt in prompts]
    assert 0.12 < sum(held_out) / len(held_out) < 0.18
    assert held_out != [is_held_out(8, prompt, 0.15) for prompt in prompts]
