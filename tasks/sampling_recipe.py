"""What defines samples: how they are drawn, by whom, and by what the best is chosen. No prefect, no torch."""

from typing import Annotated, Literal

from pydantic import Field

from llama2_core.config import Positive, PositiveFloat, Record, SamplingConfig, Share

ServerAddress = Annotated[str, Field(pattern=r"^https?://[^#]+#.+$")]


class SamplingRecipe(Record):
    """How long answers get."""

    top_p: Share = 1.0
    """Nucleus of training-time samples; scoring log-probabilities forbids less than 1 in PPO."""
    max_new_tokens: Positive = 48
    """Longest answer."""

    def at(self, temperature: float) -> SamplingConfig:
        return SamplingConfig(temperature=temperature, **self.model_dump())


class BuiltInRecipe(Record):
    """Our own sampler, in the worker."""

    kind: Literal["built-in"] = "built-in"
    """Our own sampler."""


class ServerRecipe(Record):
    """A server with OpenAI's API that has our export of the chat model loaded: vLLM, llama.cpp, transformers serve."""

    kind: Literal["server"] = "server"
    """A server."""
    server: ServerAddress
    """`http://host:port/v1#model`: where it is, and the model's name there."""


class RejectionRecipe(Record):
    """Rejection sampling: K answers a prompt, the best by reward kept. Llama 2 section 3.2.3."""

    samples: Positive = 8
    """K. Not published."""
    prompts: Positive = 2000
    """Prompts sampled."""
    temperatures: tuple[PositiveFloat, ...] = (0.8, 1.0)
    """Cycled over the K samples. Llama 2 finds 1.2 to 1.3 best."""
    safety_threshold: Share = 0.15
    """Below this safety score the safety model rules. Llama 2: 0.15."""
    sampling: SamplingRecipe = SamplingRecipe()
    """Answers."""
    engine: Annotated[BuiltInRecipe | ServerRecipe, Field(discriminator="kind")] = BuiltInRecipe()
    """Who draws them."""
