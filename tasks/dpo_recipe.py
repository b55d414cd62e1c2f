"""What defines a policy by direct preference optimization. No prefect, no torch."""

from llama2_core.config import LoRAConfig, OptimizerConfig, Positive, PositiveFloat, Precision, Record


class DPORecipe(Record):
    """Direct preference optimization of a chat model (arXiv 2305.18290); not in Llama 2."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference. The paper: 0.1."""
    epochs: Positive = 1
    """Passes over the comparisons."""
    rows: Positive = 64
    """Pairs an update. The paper: 64."""
    precision: Precision = "float32"
    """Of matrix products and activations."""
    optimizer: OptimizerConfig = OptimizerConfig(
        peak_learning_rate=1e-6, schedule="constant", warmup_steps=150
    )
    """The paper: RMSprop at 1e-6, warm-up of 150 updates; small models and few pairs want more and less."""
    lora: LoRAConfig | None = None
    """Train adapters instead of all weights."""
