"""DPO: the paper's formula by hand, TRL as the oracle, gradients, and what it learns."""

import math
import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from llama2_core.config import ModelConfig, OptimizerConfig
from llama2_core.interop.huggingface import llama_config, weights_for_transformers
from llama2_core.model import Transformer
from llama2_core.rlhf.dpo import answer_batch, answer_logprobs, dpo_loss, dpo_objective
from llama2_core.rlhf.pairs import Pair
from llama2_core.rlhf.rollout import token_logprobs
from llama2_core.training.loop import TrainState, optimizer_step
from llama2_core.training.optim import adamw

BETA = 0.3


def drawn_pairs(count: int) -> list[Pair]:
    """Prompts of 2 to 5 tokens, answers of 1 to 6."""
    numbers = random.Random(0)

    def tokens(low: int, high: int) -> list[int]:
        return [numbers.randrange(3, 300) for _ in range(numbers.randint(low, high))]

    prompts = [[1, *tokens(1, 4)] for _ in range(count)]
    return [Pair(p + tokens(1, 6), p + tokens(1, 6), "better", True, True, len(p)) for p in prompts]


@pytest.fixture
def pairs() -> list[Pair]:
    return drawn_pairs(8)


@pytest.fixture
def reference(pairs: list[Pair]) -> torch.Tensor:
    return torch.randn(len(pairs), 2, generator=torch.Generator().manual_seed(1)) - 20


def test_the_loss_by_hand() -> None:
    """Chosen 0.5 likelier than under the reference, rejected 1.5 less: sigmoid(0.1 * 2) = 0.5498, -log is 0.5981."""
    log_ratios = torch.tensor([0.5, 0.0, -1.5, 0.0])
    assert dpo_loss(log_ratios, beta=0.1).tolist() == pytest.approx([0.598139, math.log(2)], abs=1e-6)


def test_an_answer_is_summed_without_prompt_and_padding(model: Transformer, pairs: list[Pair]) -> None:
    batch = answer_batch(pairs, torch.zeros(len(pairs), 2))
    found = answer_logprobs(model, batch)
    for row, (tokens, pair) in enumerate([(p.chosen, p) for p in pairs] + [(p.rejected, p) for p in pairs]):
        alone = token_logprobs(model, torch.tensor([tokens]))[0, pair.prompt_tokens - 1 :]
        torch.testing.assert_close(found[row], alone.sum(), atol=1e-4, rtol=1e-5)
    assert batch.mask.sum() == sum(
        len(row) - p.prompt_tokens for p in pairs for row in (p.chosen, p.rejected)
    )


def test_before_the_first_update_the_loss_is_a_coins(model: Transformer, pairs: list[Pair]) -> None:
    with torch.no_grad():
        said = answer_logprobs(model, answer_batch(pairs, torch.zeros(len(pairs), 2)))
        loss = dpo_objective(BETA)(model, answer_batch(pairs, said.view(2, -1).t()))
    assert loss.total.item() / loss.count == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.slow
def test_loss_rewards_and_gradients_are_trls(
    model: Transformer, pairs: list[Pair], reference: torch.Tensor
) -> None:
    """DPOTrainer's own loss, on transformers' model of the same weights."""
    trl = pytest.importorskip("trl.trainer.dpo_trainer", reason="trl is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    batch = answer_batch(pairs, reference)
    ours = dpo_objective(BETA)(model, batch)
    (ours.total / ours.count).backward()
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model.config)))
    theirs.load_state_dict(weights_for_transformers(model))
    add_fused_lm_head(theirs, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    trainer = object.__new__(trl.DPOTrainer)
    trainer.accelerator = SimpleNamespace(
        device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    trainer.model = SimpleNamespace(training=True)
    trainer._metrics = {"train": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    trainer.beta, trainer.loss_types, trainer.loss_weights = BETA, ["sigmoid"], [1.0]
    trainer.f_divergence_type, trainer.ld_alpha, trainer.precompute_ref_logps = "reverse_kl", None, True
    trainer.aux_loss_enabled = trainer.use_weighting = False
    lengths = torch.tensor([len(p.chosen) for p in pairs] + [len(p.rejected) for p in pairs])
    inputs = {
        "input_ids": batch.tokens,
        "attention_mask": (torch.arange(batch.tokens.shape[1]) < lengths.unsqueeze(1)).long(),
        "completion_mask": torch.nn.functional.pad(batch.mask.long(), (1, 0)),
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }
    loss = trainer._compute_loss(theirs, inputs, return_outputs=False)
    loss.backward()
    torch.testing.assert_close(ours.total / ours.count, loss, atol=1e-5, rtol=1e-5)
    names = {
        "chosen_reward": "chosen",
        "rejected_reward": "rejected",
        "reward_margin": "margins",
        "accuracy": "accuracies",
    }
    for own, other in names.items():
        total, count = ours.metrics[own]
        found = trainer._metrics["train"][f"rewards/{other}"]
        assert float(total) / float(count) == pytest.approx(found[0], rel=1e-4), own
    their = weights_for_transformers(model).keys()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() <= their
    for own, other in (("norm.weight", "model.norm.weight"), ("output.weight", "lm_head.weight")):
        mine = dict(model.named_parameters())[own].grad
        torch.testing.assert_close(mine, gradients[other], atol=1e-5, rtol=1e-3)


def test_gradients_are_those_of_finite_differences(
    model: Transformer, pairs: list[Pair], reference: torch.Tensor
) -> None:
    """Along a random direction, in float64."""
    model.double()
    batch = answer_batch(pairs, reference.double())

    def loss() -> torch.Tensor:
        return dpo_objective(BETA)(model, batch).total

    # logits are made float32: the loss itself is told in that
    loss().backward()
    parameters = list(model.parameters())
    draw = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
    expected = sum(
        (d * p.grad).sum().item() for d, p in zip(directions, parameters, strict=True) if p.grad is not None
    )
    step, values = 1e-4, []
    for sign in (1, -1, -1):
        with torch.no_grad():
            values.append(loss().item())
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step * sign)
    slope = (values[1] - values[0]) / step
    assert math.isfinite(slope) and slope == pytest.approx(expected, rel=0.05)


def test_a_batch_cut_in_four_gives_the_same_update(
    model: Transformer, pairs: list[Pair], reference: torch.Tensor
) -> None:
    def gradient(parts: int) -> list[torch.Tensor]:
        model.zero_grad()
        for index in torch.arange(len(pairs)).chunk(parts):
            batch = answer_batch([pairs[i] for i in index], reference[index])
            dpo_objective(BETA)(model, batch).total.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for whole, cut in zip(gradient(1), gradient(4), strict=True):
        torch.testing.assert_close(whole, cut, atol=1e-4, rtol=1e-4)


def test_it_learns_what_is_preferred(config: ModelConfig) -> None:
    """Answers with an even first token are chosen; pairs that it was not shown are told apart too."""
    torch.manual_seed(0)
    model, numbers = Transformer(config), random.Random(1)
    made = [
        Pair([1, n, a, 2], [1, n, a + 1, 2], "better", True, True, 2)
        for n, a in ((numbers.randrange(3, 30), 2 * numbers.randrange(2, 40)) for _ in range(96))
    ]
    learned, held_out = made[:64], made[64:]

    def ask(of: list[Pair]) -> torch.Tensor:
        with torch.no_grad():
            return answer_logprobs(model, answer_batch(of, torch.zeros(len(of), 2))).view(2, -1).t()

    told, tested = ask(learned), ask(held_out)
    state = TrainState(model, adamw(model, OptimizerConfig()))
    optimizer = OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=0, schedule="constant")
    objective = dpo_objective(0.1)
    reports = [
        optimizer_step(state, objective, [answer_batch(learned, told)], optimizer, 40) for _ in range(40)
    ]
    assert reports[0].loss == pytest.approx(math.log(2), abs=1e-4)
    assert reports[-1].loss < 0.5 * reports[0].loss and reports[-1].metrics["accuracy"] == 1.0
    with torch.no_grad():
        right, count = objective(model, answer_batch(held_out, tested)).metrics["accuracy"]
    assert float(right) / float(count) > 0.8
