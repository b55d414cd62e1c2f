"""Sampling speed of our engine beside transformers' `generate` and llama.cpp, same weights, same lengths, one run.

`python -m benchmarks.generation [--threads 2]`. Weights are random, the output layer widened until a token has the
perplexity of a trained model's (about 20). Answers are cut at lengths drawn beforehand: geometric, mean 64, at most
256. A request is one prompt of 4 to 24 tokens, sampled at temperature 1 and top-p 0.9.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList
from xllamacpp import CommonParams, Server

from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.generate import Request, generate, pad_right
from llama2_core.interop.huggingface import llama_config, weights_for_transformers
from llama2_core.model import Transformer, initialise
from llama2_core.presets import STORIES_15M

ROUNDS = 5
MODELS = {
    "5M": ModelConfig(
        vocab_size=8192,
        dim=192,
        n_layers=8,
        n_heads=6,
        n_kv_heads=6,
        multiple_of=64,
        max_seq_len=512,
        tied_embeddings=True,
    ),
    "15M": STORIES_15M.model_copy(update={"max_seq_len": 512}),
}
PERPLEXITY = 20.0


def build(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    tokens = torch.randint(config.vocab_size, (4, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = model.hidden(tokens)
        low, high = 1.0, 1000.0
        for _ in range(30):
            factor = (low * high) ** 0.5
            logits = factor * model.output(hidden)
            entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
            low, high = (factor, high) if entropy.exp() > PERPLEXITY else (low, factor)
        model.norm.weight.mul_(factor)
    return model.eval()


def as_transformers(model: Transformer) -> LlamaForCausalLM:
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(model.config))).eval()
    theirs.load_state_dict(weights_for_transformers(model))
    return theirs


def asks(count: int, vocab_size: int) -> list[Request]:
    draws = random.Random(3)
    return [
        Request(
            [1, *(draws.randrange(3, vocab_size) for _ in range(draws.randint(3, 23)))],
            seed,
            SamplingConfig(
                temperature=1.0, top_p=0.9, max_new_tokens=min(256, 1 + int(draws.expovariate(1 / 63.5)))
            ),
        )
        for seed in range(count)
    ]


class Lengths(StoppingCriteria):
    """Ends each row of a batch at its own length."""

    def __init__(self, prompt_tokens: int, lengths: list[int]) -> None:
        self.ends = prompt_tokens + torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


def ours(model: Transformer, requests: list[Request], slots: int) -> None:
    done = dict(generate(model, requests, eos_id=-1, slots=slots))
    assert all(len(done[i].tokens) == r.config.max_new_tokens for i, r in enumerate(requests))


def theirs(model: LlamaForCausalLM, requests: list[Request], slots: int) -> None:
    for start in range(0, len(requests), slots):
        batch = requests[start : start + slots]
        reversed_ = pad_right([r.tokens[::-1] for r in batch], -1).flip(1)  # left-padded
        mask = reversed_ >= 0
        lengths = [r.config.max_new_tokens for r in batch]
        model.generate(
            reversed_.clamp(min=0),
            attention_mask=mask.long(),
            max_new_tokens=max(lengths),
            do_sample=True,
            temperature=1.0,
            top_p=0.9,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([Lengths(reversed_.shape[1], lengths)]),
        )


def llama_cpp(model: Transformer, threads: int) -> Callable[[list[Request]], None]:
    """Return llama.cpp's way to answer one request after the other."""
    path = Path(tempfile.mkdtemp()) / "model.gguf"
    _write_gguf(model, path)
    params = CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(path), 512, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = Server(params)

    def answer(requests: list[Request]) -> None:
        for request in requests:
            wanted = {
                "prompt": request.tokens,
                "n_predict": request.config.max_new_tokens,
                "ignore_eos": True,
            }
            made = server.handle_completions(
                wanted | {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "cache_prompt": False}
            )
            assert made["usage"]["completion_tokens"] == request.config.max_new_tokens

    return answer


def _write_gguf(model: Transformer, path: Path) -> None:
    """GGUF wants a tokenizer: one with as many pieces, made up."""
    from llama2_core.interop import gguf  # noqa: PLC0415
    from llama2_core.interop.pieces import Kind, Piece, tokenizer_of  # noqa: PLC0415
    from llama2_core.interop.source import OpenModel  # noqa: PLC0415
    from llama2_core.tensors import LazyTensor  # noqa: PLC0415

    vocabulary = [
        Piece("<unk>", 0, Kind.UNKNOWN),
        Piece("<s>", 0, Kind.CONTROL),
        Piece("</s>", 0, Kind.CONTROL),
    ]
    vocabulary += [Piece(f"<0x{byte:02X}>", 0, Kind.BYTE) for byte in range(256)]
    extra = range(model.config.vocab_size - len(vocabulary))
    vocabulary += [Piece(f"▁p{i}", -float(i), Kind.NORMAL) for i in extra]
    tensors = {
        name: LazyTensor(tuple(p.shape), p.dtype, path, lambda p=p: p.detach())
        for name, p in model.named_parameters()
    }
    gguf.write(OpenModel(model.config, tokenizer_of(vocabulary), tensors), path)


def measure(runs: dict[str, Callable[[], None]], tokens: int) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # the first warms up
                speeds[name].append(tokens / (time.perf_counter() - started))
    base = speeds["llama2-pipeline"]
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(base, values, strict=True)]
        print(
            f"  {name:16} {statistics.median(values):7.0f} tokens/s ({min(values):.0f} to {max(values):.0f}); "
            f"ours is {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def contest(name: str, config: ModelConfig, threads: int) -> None:
    model = build(config)
    other, cpp = as_transformers(model), llama_cpp(model, threads)
    for slots, requests in ((64, asks(128, config.vocab_size)), (1, asks(4, config.vocab_size))):
        runs = {
            "llama2-pipeline": partial(ours, model, requests, slots),
            "transformers": partial(theirs, other, requests, slots),
        }
        if slots == 1:
            runs["llama.cpp"] = partial(cpp, requests)
        print(f"{name}, batch {slots}")
        measure(runs, sum(request.config.max_new_tokens for request in requests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    for name, config in MODELS.items():
        contest(name, config, threads)


if __name__ == "__main__":
    main()
