"""Speed of our PPO beside TRL's RLOO, of our rejection sampling beside transformers' `generate`, memory of adapters.

`python -m benchmarks.rlhf [--sizes 0.9M 5M] [--contests ...]`. Float32, the policy's weights are the same, prompts have
4 to 24 tokens, answers geometric lengths, mean 24, at most 96: cut at lengths drawn beforehand, in RLOO by a set of end
tokens of which the untrained policy draws one as often. An iteration samples 128 responses and makes 4 updates of 32,
with a reference and two reward models of the policy's size on both sides; PPO reads and trains a value model besides,
which RLOO has none of, and takes every prompt once where RLOO takes each twice. Ours passes 8 rows of like length at a
time, RLOO 32 as they come; `--even` makes every response 48 tokens, where sorting and giving slots away win nothing.
In rejection sampling 8 answers are drawn of each of 32 prompts. Memory is the peak of an iteration of 4 responses of a
model of 33M, beyond what the process held before it made its models. Contenders have processes of their own, one thread
each, and take turns; seconds are the processor's, so that what else the machine does counts little, and a ratio is of
turns of one round.
"""

# ruff: noqa: PLC0415 (a contender's process imports what it needs, so that its peak is its own)

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from benchmarks.training import OPTIMIZER, child, trainer_settings
from llama2_core.config import LoRAConfig, ModelConfig, PPOConfig, SamplingConfig
from llama2_core.presets import PRESETS

if TYPE_CHECKING:
    from llama2_core.generate import Request
    from llama2_core.rlhf.actors import ActorCritic, Judges

ROWS, UPDATE_ROWS, PASS_ROWS, ROUNDS = 128, 32, 8, 3
"""Responses an iteration, an update, a pass of ours; iterations that are measured, after one that is not."""
SAMPLES, PROMPTS = 8, 32
"""Of rejection sampling: answers a prompt, prompts."""
EVEN, MEAN, LONGEST = 48, 24, 96
"""Tokens of an answer."""
SIZES = {
    "0.9M": PRESETS["0.9M"],
    "5M": PRESETS["5M"],
    "33M": PRESETS["0.9M"].model_copy(update={"dim": 512, "n_layers": 10, "n_heads": 8, "n_kv_heads": 8}),
}
"""Adapters are weighed at the last: of smaller models activations take more than weights."""
PHASES: tuple[str, ...] = ("sampling", "judging", "updating")


@dataclass(frozen=True)
class Job:
    size: str
    rounds: int = ROUNDS
    rows: int = ROWS
    update_rows: int = UPDATE_ROWS
    even: bool = False

    @property
    def config(self) -> ModelConfig:
        return SIZES[self.size].model_copy(update={"max_seq_len": 256})


class Clock:
    """Adds up what an iteration's phases take; at its end it reports them and waits for the next turn."""

    def __init__(self, parent: Connection) -> None:
        self._parent, self._began = parent, time.process_time()
        self._spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self._spent[name] += time.process_time() - began

    def turn(self) -> None:
        self._spent["updating"] = time.process_time() - self._began - sum(self._spent.values())
        self._parent.send((self._spent, peak_bytes()))
        self._parent.recv()
        self._began, self._spent = time.process_time(), dict.fromkeys(PHASES, 0.0)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prompts(config: ModelConfig, count: int) -> list[list[int]]:
    draws = random.Random(3)
    return [
        [1, *(draws.randrange(3, config.vocab_size) for _ in range(draws.randint(3, 23)))]
        for _ in range(count)
    ]


def models(config: ModelConfig, lora: LoRAConfig | None = None) -> "tuple[ActorCritic, Judges]":
    """Return five models, those with adapters sharing the weights of their judges as the PPO stage has them share."""
    import torch

    from llama2_core.lora import add_adapters
    from llama2_core.model import ScalarModel, Transformer, initialise
    from llama2_core.rlhf.actors import ActorCritic, Judges, twin

    value_model: Any
    judges = Judges(Transformer(config), ScalarModel(config), ScalarModel(config))
    for seed, model in enumerate(judges.models()):
        initialise(model, config, torch.Generator().manual_seed(seed))
        model.requires_grad_(False).eval()
    if lora:
        policy, value_model = twin(judges.reference), twin(judges.helpfulness)
        for model in (policy, value_model.transformer):
            add_adapters(model, lora, torch.Generator().manual_seed(9))
    else:
        policy, value_model = Transformer(config), ScalarModel(config)
        policy.load_state_dict(judges.reference.state_dict())
        value_model.load_state_dict(judges.helpfulness.state_dict())
    return ActorCritic(policy, value_model).eval(), judges


def ours(job: Job, clock: Clock, lora: LoRAConfig | None = None) -> None:
    import torch

    from llama2_core.generate import generate
    from llama2_core.rlhf import ppo as core
    from llama2_core.rlhf.rollout import Rollout, assemble
    from llama2_core.training.loop import TrainState
    from llama2_core.training.optim import adamw
    from tasks.process import reuse_freed_memory

    reuse_freed_memory()  # as a worker does
    learner, judges = models(job.config, lora)
    config = PPOConfig(
        iterations=job.rounds + 1,
        batch_rows=job.rows,
        mini_batch_rows=job.update_rows,
        micro_rows=PASS_ROWS,
    )
    draws = random.Random(5)
    asked = prompts(job.config, job.rows * (job.rounds + 1))

    def sample(policy: Any, iteration: int) -> tuple[Rollout, torch.Tensor]:
        with clock.phase("sampling"):
            rows = asked[job.rows * iteration : job.rows * (iteration + 1)]
            lengths = [EVEN if job.even else length(draws) for _ in rows]
            requests = [
                request(row, seed, n) for seed, (row, n) in enumerate(zip(rows, lengths, strict=True))
            ]
            done = dict(generate(policy, requests, eos_id=-1, slots=job.rows))
            rollout = assemble(rows, [done[index] for index in range(job.rows)], 0)
        return rollout, torch.zeros(job.rows, dtype=torch.bool)

    judge = core.judge

    def timed(*arguments: Any) -> Any:
        with clock.phase("judging"):
            return judge(*arguments)

    core.judge = timed
    state = TrainState(learner, adamw(learner, OPTIMIZER))
    for _ in core.ppo(state, judges, sample, config, OPTIMIZER, config.kl_coef):
        clock.turn()


def trl(job: Job, clock: Clock) -> None:
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    from llama2_core.interop.huggingface import llama_config, weights_for_transformers

    class Timed(RLOOTrainer):
        def _generate(self, prompts: Any) -> Any:
            with clock.phase("sampling"):
                return super()._generate(prompts)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began, sampled = time.process_time(), clock._spent["sampling"]
            scored = super()._generate_and_score_completions(inputs)
            sampled = clock._spent["sampling"] - sampled
            clock._spent["judging"] += time.process_time() - began - sampled
            return scored

    class Turn(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % (ROWS // UPDATE_ROWS) == 0:
                clock.turn()

    words = vocabulary(job.config)
    shape = LlamaConfig(**llama_config(job.config))
    policy = LlamaForCausalLM(shape)
    policy.load_state_dict(weights_for_transformers(models(job.config)[0].policy))
    if not job.even:
        policy.generation_config.eos_token_id = list(range(100, 100 + job.config.vocab_size // MEAN))
    judges = [
        LlamaForSequenceClassification(LlamaConfig(**{**llama_config(job.config), "num_labels": 1}))
        for _ in range(2)
    ]
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)  # the reference is read from where the policy came from
        arguments = RLOOConfig(
            max_steps=(job.rounds + 1) * ROWS // UPDATE_ROWS,
            per_device_train_batch_size=UPDATE_ROWS,
            steps_per_generation=ROWS // UPDATE_ROWS,
            num_generations=2,
            max_completion_length=EVEN if job.even else LONGEST,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.01,
            bf16=False,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            **trainer_settings(),
        )
        asked = [
            {"prompt": "".join(f"w{token} " for token in row)}
            for row in prompts(job.config, ROWS // 2 * (job.rounds + 1))
        ]
        Timed(
            folder,
            reward_funcs=judges,  # type: ignore[arg-type]
            args=arguments,
            train_dataset=Dataset.from_list(asked),
            processing_class=words,
            reward_processing_classes=[words, words],
            callbacks=[Turn()],
        ).train()


def vocabulary(config: ModelConfig) -> Any:
    """Return a tokenizer of a word a token; its end token is none that the model can draw."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {f"w{number}": number for number in range(config.vocab_size)} | {"</s>": config.vocab_size}
    words = Tokenizer(WordLevel(ids, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="</s>", unk_token="w0")


def length(draws: random.Random) -> int:
    return min(LONGEST, 1 + int(draws.expovariate(1 / (MEAN - 0.5))))


def request(row: list[int], seed: int, tokens: int) -> "Request":
    from llama2_core.generate import Request

    return Request(row, seed, SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=tokens))


def answers(config: ModelConfig) -> list[tuple[list[int], int]]:
    """Return prompts and lengths of the answers of rejection sampling, those of a prompt next to each other."""
    draws = random.Random(4)
    return [(prompt, length(draws)) for prompt in prompts(config, PROMPTS) for _ in range(SAMPLES)]


def our_samples(job: Job, clock: Clock) -> None:
    from llama2_core.generate import generate
    from tasks.process import reuse_freed_memory

    reuse_freed_memory()  # as a worker does
    policy = models(job.config)[0].policy
    requests = [request(row, seed, tokens) for seed, (row, tokens) in enumerate(answers(job.config))]
    for _ in range(job.rounds + 1):
        with clock.phase("sampling"):
            done = dict(generate(policy, requests, eos_id=-1, slots=128))
        assert all(len(done[i].tokens) == each.config.max_new_tokens for i, each in enumerate(requests))
        clock.turn()


def their_samples(job: Job, clock: Clock) -> None:
    import torch
    from transformers import StoppingCriteriaList

    from benchmarks.generation import Lengths, as_transformers
    from llama2_core.generate import pad_right

    policy: Any = as_transformers(models(job.config)[0].policy)
    asked = answers(job.config)
    for _ in range(job.rounds + 1):
        with clock.phase("sampling"):
            for start in range(0, len(asked), 128):
                batch = asked[start : start + 128]
                rows = pad_right([row[::-1] for row, _ in batch[::SAMPLES]], -1).flip(1)  # left-padded
                lengths = [length for _, length in batch]
                with torch.inference_mode():
                    policy.generate(
                        rows.clamp(min=0),
                        attention_mask=(rows >= 0).long(),
                        max_new_tokens=max(lengths),
                        num_return_sequences=SAMPLES,
                        do_sample=True,
                        temperature=1.0,
                        top_p=1.0,
                        top_k=0,
                        eos_token_id=None,
                        pad_token_id=0,
                        stopping_criteria=StoppingCriteriaList([Lengths(rows.shape[1], lengths)]),
                    )
        clock.turn()


CONTESTS: dict[str, tuple[int, dict[str, Callable[[Job, Clock], None]]]] = {
    "ppo": (ROWS, {"ours": ours, "TRL": trl}),
    "rejection": (SAMPLES * PROMPTS, {"ours": our_samples, "transformers": their_samples}),
}
ADAPTED = {"five models": ours, "adapters": partial(ours, lora=LoRAConfig(rank=8, dropout=0.0))}


def contend(contender: Callable[[Job, Clock], None], job: Job, parent: Connection) -> None:
    import torch

    import llama2_core.rlhf.ppo  # noqa: F401  (what this and AdamW import is not models' memory)

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)

    torch.set_num_threads(1)
    parent.send(peak_bytes())
    contender(job, Clock(parent))


def compete(contenders: dict[str, Callable[[Job, Clock], None]], job: Job) -> dict[str, list[dict]]:
    """Return what each contender's phases took in each round, after one to warm up, and its memory as "bytes"."""
    pipes = {name: child(contend, contender, job) for name, contender in contenders.items()}
    before = {name: pipe.recv() for name, pipe in pipes.items()}
    found: dict[str, list[dict]] = {name: [] for name in contenders}
    for turn in range(job.rounds + 1):
        for name, pipe in pipes.items():
            if turn:
                pipe.send("go")
            spent, peak = pipe.recv()
            found[name].append({**spent, "bytes": peak - before[name]})
    for pipe in pipes.values():
        pipe.send("end")
    return {name: turns[1:] or turns for name, turns in found.items()}


def told(found: dict[str, list[dict]], rows: int, size: str) -> None:
    """Print samples a second of each contender, of the whole and of each phase, and ours over the others'."""
    mine, *_ = found.values()
    parts = [phase for phase in PHASES if all(turn[phase] > 1e-3 for turn in mine)]
    for name, turns in found.items():
        whole = [sum(turn[phase] for phase in PHASES) for turn in turns]
        shares = [
            f"{phase} {statistics.median(t[phase] / w for t, w in zip(turns, whole, strict=True)):.0%}"
            for phase in parts
        ]
        line = f"  {size:5} {name:13}{rows / statistics.median(whole):8.1f} samples/s, {', '.join(shares)}"
        if turns is not mine:
            line += "; ours is " + ", ".join(
                f"{label} {ratio(mine, turns, phases)}"
                for label, phases in (("in all", PHASES), *((part, (part,)) for part in parts))
            )
        print(line, flush=True)


def ratio(mine: list[dict], others: list[dict], phases: tuple[str, ...]) -> str:
    found = [
        sum(theirs[phase] for phase in phases) / sum(own[phase] for phase in phases)
        for own, theirs in zip(mine, others, strict=True)
    ]
    return f"{statistics.median(found):.2f}x ({min(found):.2f} to {max(found):.2f})"


def weigh() -> None:
    """Print the memory of one iteration with adapters and without."""
    found = compete(ADAPTED, Job("33M", rounds=0, rows=4, update_rows=2))
    held = {name: turns[0]["bytes"] for name, turns in found.items()}
    for name, taken in held.items():
        print(
            f"  33M   {name:13}{taken / 2**20:7.0f} MiB, {taken / held['five models']:.2f} of the five models'"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.9M", "5M"])
    parser.add_argument("--contests", nargs="+", default=[*CONTESTS, "memory"], choices=[*CONTESTS, "memory"])
    parser.add_argument(
        "--even", action="store_true", help=f"Make all responses of PPO and RLOO {EVEN} tokens."
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    for contest in chosen.contests:
        print(contest, flush=True)
        if contest == "memory":
            weigh()
        else:
            rows, contenders = CONTESTS[contest]
            for size in chosen.sizes:
                job = Job(size, chosen.rounds, even=chosen.even)
                told(compete(contenders, job), rows, size)


if __name__ == "__main__":
    main()
