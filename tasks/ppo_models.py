"""The models of a PPO stage, in one of two ways: each for itself, or adapters on shared weights.

Several processes shard them (FSDP2), but for weights that models share, which are whole on each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llama2_core.config import LoRAConfig, ModelConfig
from llama2_core.linear import Linear
from llama2_core.lora import add_adapters
from llama2_core.model import ScalarModel, Transformer
from llama2_core.rlhf.actors import ActorCritic, Judges, twin
from llama2_core.seeding import generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, distributed, parallel
from tasks.recipes import PPORecipe
from tasks.stage import Stage, assign, empty, refuse_other_tokenizer
from tasks.training_stages import save_adapted


@dataclass(frozen=True)
class Models:
    """Who learns, who judges, and how the policy is written to a directory."""

    learner: ActorCritic
    judges: Judges
    tokenizer: Tokenizer
    save: Callable[[Path], None]
    blank: Callable[[], Transformer]
    """Makes a model on this process alone that is the policy once it has the weights that the policy learns."""

    @contextmanager
    def sampler(self) -> Iterator[Transformer]:
        """Yield the policy whole on every process, gathered once; without the name it is bound to it is freed."""
        if distributed.world_size() == 1:
            yield self.learner.policy
            return
        model, learned = self.blank(), checkpoint.trained(self.learner.policy)
        assign(model, ((name, distributed.full(value.detach())) for name, value in learned.items()))
        yield model.eval()


def load_models(stage: Stage, recipe: PPORecipe) -> Models:
    """Load policy, value model, reference and reward models; with adapters, three models' weights hold all five.

    Raises ConfigError naming a model whose tokenizer is not the chat model's, and for a mesh that does not fit.
    """
    chat = stage.parents["chat"]
    tokenizer = Tokenizer.load(chat / "tokenizer.model")
    scorers: dict[str, Any] = {}
    for role in ("helpfulness", "safety", "independent"):
        if role in stage.parents:
            refuse_other_tokenizer(stage, role, tokenizer)
            shared = bool(recipe.lora) and role == recipe.critic
            scorers[role] = _judge(stage, role, ScalarModel, checkpoint.fill_reward_model, shared)
    judges = Judges(_judge(stage, "chat", Transformer, checkpoint.fill_policy, bool(recipe.lora)), **scorers)
    if recipe.lora:
        return _sharing(stage, recipe.lora, recipe.critic, judges, tokenizer)
    policy = _placed(stage, chat, Transformer, checkpoint.fill_policy)
    value_model = _placed(stage, stage.parents[recipe.critic], ScalarModel, checkpoint.fill_reward_model)
    learner = ActorCritic(policy, _with_new_head(value_model)).eval()
    save = partial(_save, policy=policy, tokenizer=tokenizer)
    return Models(learner, judges, tokenizer, save, partial(_blank, policy.config))


def _judge(stage: Stage, role: str, kind: type, fill: Callable[[Any, Path], None], shared: bool) -> Any:
    return _placed(stage, stage.parents[role], kind, fill, frozen=True, shared=shared)


def _placed(
    stage: Stage,
    directory: Path,
    kind: type,
    fill: Callable[[Any, Path], None],
    frozen: bool = False,
    shared: bool = False,
) -> Any:
    """Return a model, sharded unless another is to share its weights, filled from a directory."""
    mesh, config = stage.execution.mesh, checkpoint.load_config(directory)
    parallel.refuse_mesh(mesh, distributed.world_size(), config, adapted=shared)
    model = empty(kind, config).requires_grad_(not frozen)
    if not shared:
        parallel.arrange(model, mesh)
    offloaded = mesh.cpu_offload and not shared
    model.to_empty(device=torch.device("cpu") if offloaded else distributed.device())
    fill(model, directory)
    return model.eval()


def _blank(config: ModelConfig) -> Transformer:
    return empty(Transformer, config).to_empty(device=distributed.device())


def _save(directory: Path, policy: Transformer, tokenizer: Tokenizer) -> None:
    checkpoint.save_model(directory, policy, tokenizer)


def _sharing(stage: Stage, lora: LoRAConfig, critic: str, judges: Judges, tokenizer: Tokenizer) -> Models:
    """The policy is the reference with adapters, the value model what it begins from with others."""
    random = generator(stage.seed, "adapters")

    def adapted() -> Transformer:
        policy = twin(judges.reference)
        add_adapters(policy, lora, random)
        return policy

    policy = adapted()
    if critic == "helpfulness":
        value_model = twin(judges.helpfulness)
    else:
        value_model = empty(ScalarModel, judges.reference.config)
        value_model.transformer = twin(judges.reference)
    assert isinstance(value_model, ScalarModel)
    scalar = lora.model_copy(update={"targets": tuple(t for t in lora.targets if t != "output")})
    add_adapters(value_model.transformer, scalar, random)
    value_model.score = Linear(policy.config.dim, 1).to(distributed.device())
    learner = ActorCritic(policy, _with_new_head(value_model)).eval()
    for part in (policy, value_model):
        frozen = [weight for weight in part.parameters() if not weight.requires_grad]
        parallel.arrange(part, stage.execution.mesh, whole=frozen)

    def save(directory: Path) -> None:
        save_adapted(directory, stage.parents["chat"], policy, lora)

    return Models(learner, judges, tokenizer, save, adapted)


def _with_new_head(model: ScalarModel) -> ScalarModel:
    """Rewards are whitened: their mean, 0, is the first guess of every value."""
    torch.nn.init.zeros_(model.score.weight)
    model.score.weight.requires_grad_(True)
    return model
