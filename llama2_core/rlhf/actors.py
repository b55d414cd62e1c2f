"""The models that PPO holds: two that learn, and those that judge. Shapes: B rows, T tokens, V vocabulary."""

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from llama2_core.model import ScalarModel, Transformer

Model = TypeVar("Model", bound=nn.Module)


class ActorCritic(nn.Module):
    """The policy that is trained and the value model that is trained beside it."""

    def __init__(self, policy: Transformer, value_model: ScalarModel) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model

    def forward(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [N, V] of predictions that bool [B, T - 1] marks, and all values [B, T - 1], float32."""
        return self.policy(tokens[:, :-1], places=places), self.value_model(tokens[:, :-1])


@dataclass(frozen=True)
class Judges:
    """The frozen models: the reference policy and the reward models."""

    reference: Transformer
    helpfulness: nn.Module
    safety: nn.Module
    independent: nn.Module | None = None
    """One that PPO does not maximise: where it falls while the others rise, they are being deceived (Goodhart)."""

    def models(self) -> list[nn.Module]:
        found = (self.reference, self.helpfulness, self.safety, self.independent)
        return [model for model in found if model is not None]


def twin(model: Model) -> Model:
    """Return a second model on the same weights: adapters put on one leave the other as it is, and cost only theirs."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
