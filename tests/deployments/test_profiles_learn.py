"""Profiles for other machines: the whole model without memory, and real updates at a depth of one."""

import pytest
import torch

from deployments.profiles import FOLDER, load_profile
from llama2_core.config import MeshConfig
from llama2_core.footprint import parameter_count
from llama2_core.lora import add_adapters
from llama2_core.model import Transformer, initialise
from llama2_core.training.loop import TrainState, optimizer_step
from llama2_core.training.objectives import TokenBatch, token_objective
from llama2_core.training.optim import adamw
from llama2_core.training.parallel import arrange, autocasting
from tasks.recipes import Llama2Recipe

OTHERS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem.startswith(("paper-", "gpu-")))


def recipe_of(profile: str) -> Llama2Recipe:
    return load_profile(profile, []).recipe


@pytest.mark.parametrize("profile", OTHERS)
def test_a_profile_s_model_is_built(profile: str) -> None:
    config = recipe_of(profile).pretrain.model
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "adapted"),
    [("gpu-24gb-110m", False), ("gpu-80gb-1.1b", False), ("gpu-24gb-7b-lora", True)],
)
def test_a_profile_learns_at_a_depth_of_one(profile: str, adapted: bool) -> None:
    """Its width, precision, optimizer and adapters, with a vocabulary of 512 and rows of 64 tokens."""
    recipe = recipe_of(profile)
    config = recipe.pretrain.model.model_copy(update={"n_layers": 1, "vocab_size": 512})
    learned = recipe.sft if adapted else recipe.pretrain.loop
    assert learned.precision == "bfloat16"
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    if adapted:
        assert recipe.sft.lora
        add_adapters(model, recipe.sft.lora, torch.Generator().manual_seed(0))
    arrange(model, MeshConfig(), learned.precision, checkpointing=True)
    state = TrainState(model, adamw(model, learned.optimizer))
    tokens = torch.randint(512, (2, 65), generator=torch.Generator().manual_seed(1))
    batch = TokenBatch(tokens, torch.ones(2, 64, dtype=torch.bool))
    objective = autocasting(token_objective(), learned.precision)
    reports = [optimizer_step(state, objective, [batch], learned.optimizer, 1000) for _ in range(3)]
    assert all(report.applied for report in reports)
    assert reports[-1].loss < reports[0].loss
