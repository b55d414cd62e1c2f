"""PPO's formulas against those that others publish, on random input; one gradient, however a mini-batch is cut."""

import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from llama2_core.config import MeshConfig, ModelConfig, OptimizerConfig, PPOConfig
from llama2_core.generate import Completion
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.rlhf import diagnostics
from llama2_core.rlhf.actors import ActorCritic, Judges
from llama2_core.rlhf.experience import Experience, generalised_advantages, judge, token_rewards, whiten
from llama2_core.rlhf.ppo import clipped_policy_loss, clipped_value_loss, ppo_objective
from llama2_core.rlhf.rollout import assemble
from llama2_core.training import distributed
from llama2_core.training.loop import Report, TrainState, optimizer_step
from llama2_core.training.optim import adamw
from llama2_core.training.parallel import arrange

ROWS, PLACES = 7, 12
RANDOM = torch.Generator().manual_seed(0)
STARTS = torch.randint(0, 4, (ROWS, 1), generator=RANDOM)
ENDS = torch.randint(5, PLACES + 1, (ROWS, 1), generator=RANDOM)
MASK = (torch.arange(PLACES) >= STARTS) & (torch.arange(PLACES) < ENDS)
BETA, GAMMA, LAMBDA, CLIP = 0.05, 0.97, 0.9, 0.2


def drawn() -> Tensor:
    return torch.randn(ROWS, PLACES, generator=RANDOM)


LOGPROBS, REFERENCE, OLD, VALUES, OLD_VALUES = (drawn() for _ in range(5))
SCORES = torch.randn(ROWS, generator=RANDOM)


def trl_advantages(rewards: Tensor, values: Tensor) -> Tensor:
    """TRL 0.12, trl/trainer/ppo_trainer.py, "6. compute advantages and returns": padding holds zeros there."""
    last, reversed_ = torch.zeros(len(rewards)), []
    for t in reversed(range(rewards.shape[1])):
        next_values = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        delta = rewards[:, t] + GAMMA * next_values - values[:, t]
        last = delta + GAMMA * LAMBDA * last
        reversed_.append(last)
    return torch.stack(reversed_[::-1], dim=1)


def test_rewards_and_advantages_are_trls() -> None:
    """Its rows hold the response alone; ours begin with the prompt, masked."""
    log_ratio = LOGPROBS - REFERENCE
    rewards = token_rewards(SCORES, log_ratio, MASK, BETA)
    advantages, returns = generalised_advantages(rewards, VALUES, MASK, GAMMA, LAMBDA)
    for row in range(ROWS):
        own = slice(int(STARTS[row]), int(ENDS[row]))
        expected = -BETA * (LOGPROBS[row, own] - REFERENCE[row, own])  # non_score_reward, kl_estimator k1
        expected[-1] += SCORES[row]
        torch.testing.assert_close(rewards[row, own], expected)
        theirs = trl_advantages(expected[None], VALUES[row, own][None])[0]
        torch.testing.assert_close(advantages[row, own], theirs)
        torch.testing.assert_close(returns[row, own], theirs + VALUES[row, own])
    assert not rewards[~MASK].any() and not advantages[~MASK].any() and not returns[~MASK].any()


def test_k3_is_trls() -> None:
    """TRL: kl = (logr.exp() - 1) - logr with logr = ref_logprobs - logprobs. Also GRPO's per_token_kl."""
    logr = REFERENCE - LOGPROBS
    torch.testing.assert_close(diagnostics.k3(-logr), (logr.exp() - 1) - logr)


def test_whitening_is_openrlhfs_and_trls_up_to_bessel() -> None:
    """OpenRLHF, experience_maker.py: (A - mean) * rsqrt(var + 1e-8), of masked sums; TRL's variance is unbiased."""
    of = VALUES[MASK]
    mean = of.sum() / MASK.sum()
    variance = ((of - mean).pow(2)).sum() / MASK.sum()
    ours = whiten(VALUES, MASK)[MASK]
    torch.testing.assert_close(ours, (of - mean) * (variance + 1e-8).rsqrt())
    n = len(of)
    theirs = (of - mean) * (of.var(correction=1) + 1e-8).rsqrt()
    torch.testing.assert_close(ours, theirs * (n / (n - 1)) ** 0.5)


def test_losses_are_trls() -> None:
    """TRL 0.12, trl/trainer/ppo_trainer.py: pg_loss_max and vf_losses with cliprange and cliprange_value."""
    advantages, returns = drawn(), drawn()
    ratio = torch.exp(LOGPROBS - OLD)
    policy = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 1.0 - CLIP, 1.0 + CLIP))
    torch.testing.assert_close(clipped_policy_loss(LOGPROBS, OLD, advantages, CLIP), policy)
    near = torch.clamp(VALUES, OLD_VALUES - CLIP, OLD_VALUES + CLIP)
    value = 0.5 * torch.max(torch.square(VALUES - returns), torch.square(near - returns))
    torch.testing.assert_close(clipped_value_loss(VALUES, OLD_VALUES, returns, CLIP), value)


def test_the_exact_kl_is_torchs() -> None:
    p, q = (torch.distributions.Categorical(logits=torch.randn(5, 40, generator=RANDOM)) for _ in range(2))
    kl = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(diagnostics.exact_kl(p.logits, q.logits), kl)
    torch.testing.assert_close(diagnostics.entropy(p.logits), p.entropy())


@pytest.mark.slow
def test_entropy_is_trls() -> None:
    utils = pytest.importorskip("trl.trainer.utils", reason="trl is not installed")
    logits = torch.randn(5, 40, generator=RANDOM)
    torch.testing.assert_close(diagnostics.entropy(logits.log_softmax(-1)), utils.entropy_from_logits(logits))


def learner(config: ModelConfig) -> ActorCritic:
    model = ActorCritic(Transformer(config), ScalarModel(config)).eval()
    for seed, part in enumerate((model.policy, model.value_model)):
        initialise(part, config, torch.Generator().manual_seed(seed))
    return model


def mini_batch(config: ModelConfig) -> Experience:
    """Eight rows of responses of one to eight tokens, judged."""
    draw = torch.Generator().manual_seed(3)
    answers = [torch.randint(3, 300, (1 + row,), generator=draw).tolist() for row in range(8)]
    said = [Completion(answer, [-1.0] * (len(answer) + 1), "eos") for answer in answers]
    rollout = assemble([[1, 5 + row] for row in range(8)], said, eos_id=2)
    judges = Judges(Transformer(config), ScalarModel(config), ScalarModel(config))
    for seed, model in enumerate((judges.reference, judges.helpfulness, judges.safety)):
        initialise(model, config, torch.Generator().manual_seed(10 + seed))
    tagged = torch.zeros(8, dtype=torch.bool)
    return judge(learner(config), judges, rollout, tagged, PPOConfig(), 0.05)[0]


def step(model: torch.nn.Module, experience: Experience, rows: list[int], parts: int) -> Report:
    """Do one update on some rows of a mini-batch, cut into so many micro-batches."""
    optimizer = OptimizerConfig(peak_learning_rate=1e-3, schedule="constant", warmup_steps=0)
    state = TrainState(model, adamw(model, optimizer))
    batches = [experience.rows(part) for part in torch.tensor(rows).chunk(parts)]
    objective = ppo_objective(PPOConfig(entropy_coef=0.01))
    return optimizer_step(state, objective, batches, optimizer, 1)


def updated(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: distributed.full(p.detach()).clone() for name, p in model.named_parameters()}


def refuse_difference(
    found: dict[str, Tensor], report: Report, one: dict[str, Tensor], whole: Report
) -> None:
    assert report.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
    assert report.metrics == pytest.approx(whole.metrics, rel=1e-4, abs=1e-6)
    for (
        name,
        tensor,
    ) in one.items():  # AdamW's first step is the gradient's sign, nearly, where it is not tiny
        torch.testing.assert_close(found[name], tensor, atol=5e-5, rtol=1e-4)


def test_a_step_is_the_same_in_one_pass_and_in_four(config: ModelConfig) -> None:
    experience, rows = mini_batch(config), list(range(8))
    whole, cut = learner(config), learner(config)
    one, four = step(whole, experience, rows, 1), step(cut, experience, rows, 4)
    refuse_difference(updated(cut), four, updated(whole), one)
    before, after = updated(learner(config)), updated(whole)
    assert max((after[name] - before[name]).abs().max() for name in before) > 5e-4


def _of_two(rank: int, port: int, config: ModelConfig, experience: Experience, queue: mp.SimpleQueue) -> None:
    import os

    told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    distributed.start()
    model = learner(config)
    for part in (model.policy, model.value_model):
        arrange(part, MeshConfig())
    report = step(model, experience, list(range(rank, 8, 2)), 2)
    weights = updated(model)
    if rank == 0:
        queue.put(({name: tensor.numpy() for name, tensor in weights.items()}, report))
    distributed.stop()


@pytest.mark.slow
def test_a_step_is_the_same_in_one_process_and_in_two(config: ModelConfig) -> None:
    experience, whole = mini_batch(config), learner(config)
    one = step(whole, experience, list(range(8)), 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    workers = mp.spawn(_of_two, (port, config, experience, queue), nprocs=2, join=False)
    found, report = queue.get()
    while not workers.join():
        pass
    weights = {name: torch.from_numpy(array) for name, array in found.items()}
    refuse_difference(weights, report, updated(whole), one)
