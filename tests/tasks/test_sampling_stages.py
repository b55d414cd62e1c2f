"""What a comparison is held out by; reward models that cannot read a policy's tokens."""

from pathlib import Path

import pytest

from llama2_core.errors import ConfigError
from llama2_core.model import ScalarModel, Transformer
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import save_model
from tasks.recipes import RejectionRecipe
from tasks.runtime import Execution
from tasks.sampling_stages import samples
from tasks.stage import Stage
from tasks.tables import held_out_draw


def test_a_reward_model_of_another_vocabulary_is_refused(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "chat", model, tokenizer)
    other = train_tokenizer([f"the dog ran {n} times" for n in range(60)], 300, ["[INST]", "[/INST]"])
    for role, words in (("helpfulness", tokenizer), ("safety", other)):
        save_model(tmp_path / role, ScalarModel(model.config), words)
    parents = {role: tmp_path / role for role in ("chat", "helpfulness", "safety")}
    stage = Stage(tmp_path, RejectionRecipe().model_dump(), 0, parents, Execution(threads=1))
    with pytest.raises(ConfigError, match="the safety reward model safety has another tokenizer"):
        samples(stage)


def test_a_prompt_is_held_out_in_every_batch_or_in_none() -> None:
    held_out = [held_out_draw(7, f"train-{i}") < 0.15 for i in range(2000)]
    assert held_out == [held_out_draw(7, f"train-{i}") < 0.15 for i in range(2000)]
    assert 0.12 < sum(held_out) / len(held_out) < 0.18
    assert held_out != [held_out_draw(8, f"train-{i}") < 0.15 for i in range(2000)]
