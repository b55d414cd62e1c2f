"""The models of a PPO stage, in one of two ways: each for itself, or adapters on shared weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llama2_core.linear import Linear
from llama2_core.lora import add_adapters
from llama2_core.model import ScalarModel
from llama2_core.rlhf.actors import ActorCritic, Judges, twin
from llama2_core.seeding import generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint
from tasks.recipes import PPORecipe
from tasks.stage import Stage, empty, reward_model
from tasks.training_stages import save_adapted


@dataclass(frozen=True)
class Models:
    """Who learns, who judges, and how the policy is written to a directory."""

    learner: ActorCritic
    judges: Judges
    tokenizer: Tokenizer
    save: Callable[[Path], None]


def load_models(stage: Stage, recipe: PPORecipe) -> Models:
    """Load policy, value model, reference and reward models; with adapters, three models' weights hold all five.

    Raises ConfigError naming a model whose tokenizer is not the chat model's.
    """
    reference, tokenizer = checkpoint.load_policy(stage.parents["chat"])
    scorers = {
        role: reward_model(stage, role, tokenizer)
        for role in ("helpfulness", "safety", "independent")
        if role in stage.parents
    }
    judges = Judges(reference, **scorers)
    for model in (reference, *scorers.values()):
        model.requires_grad_(False)
    if recipe.lora:
        return _sharing(stage, recipe, judges, tokenizer)
    policy, _ = checkpoint.load_policy(stage.parents["chat"])
    value_model, _ = checkpoint.load_reward_model(stage.parents[recipe.critic])
    learner = ActorCritic(policy, _with_new_head(value_model))
    return Models(learner, judges, tokenizer, lambda path: checkpoint.save_model(path, policy, tokenizer))


def _sharing(stage: Stage, recipe: PPORecipe, judges: Judges, tokenizer: Tokenizer) -> Models:
    """The policy is the reference with adapters, the value model what it begins from with others."""
    assert recipe.lora
    lora, random = recipe.lora, generator(stage.seed, "adapters")
    policy = twin(judges.reference)
    if recipe.critic == "helpfulness":
        value_model = twin(judges.helpfulness)
    else:
        value_model = empty(ScalarModel, judges.reference.config)
        value_model.transformer = twin(judges.reference)
    assert isinstance(value_model, ScalarModel)
    add_adapters(policy, lora, random)
    scalar = lora.model_copy(update={"targets": tuple(t for t in lora.targets if t != "output")})
    add_adapters(value_model.transformer, scalar, random)
    value_model.score = Linear(policy.config.dim, 1)
    learner = ActorCritic(policy, _with_new_head(value_model)).eval()

    def save(directory: Path) -> None:
        save_adapted(directory, stage.parents["chat"], policy, lora)

    return Models(learner, judges, tokenizer, save)


def _with_new_head(model: ScalarModel) -> ScalarModel:
    """Rewards are whitened: their mean, 0, is the first guess of every value."""
    torch.nn.init.zeros_(model.score.weight)
    model.score.weight.requires_grad_(True)
    return model
