"""Seconds and memory of a conversion chain: native -> meta -> huggingface -> gguf f16 -> gguf q8_0, a process each.

`python -m benchmarks.conversion [--preset 1.1B]`. Weights are random, float16. Each conversion ends with its own
comparison. Meta's shards are 8, or the largest divisor of 8 that the shape allows. Pages mapped from files count in
the resident memory, but can be dropped; the anonymous memory is what a conversion really holds.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llama2_core.config import ModelConfig
from llama2_core.interop import native
from llama2_core.interop.convert import convert
from llama2_core.interop.pieces import Kind, Piece, tokenizer_of
from llama2_core.interop.source import OpenModel, shapes
from llama2_core.presets import PRESETS
from llama2_core.tensors import LazyTensor
from llama2_core.tokenizer import Tokenizer

INTERVAL_SECONDS = 0.05


def made_up(vocab_size: int) -> Tokenizer:
    roles = {"<unk>": Kind.UNKNOWN, "<s>": Kind.CONTROL, "</s>": Kind.CONTROL}
    roles |= {f"<0x{byte:02X}>": Kind.BYTE for byte in range(256)}
    roles["▁"] = Kind.NORMAL
    roles |= {f"▁p{i}": Kind.NORMAL for i in range(vocab_size - len(roles))}
    return tokenizer_of(
        [Piece(text, -float(index), kind) for index, (text, kind) in enumerate(roles.items())]
    )


def random_model(config: ModelConfig) -> OpenModel:
    """Return a model whose tensors are drawn as they are loaded."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.float16)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.empty(shape, dtype=torch.float16).normal_(0, 0.02, generator=generator)

    tensors = {
        name: LazyTensor(shape, torch.float16, Path(name), partial(draw, name, shape))
        for name, shape in shapes(config).items()
    }
    return OpenModel(config, made_up(config.vocab_size), tensors)


def status(pid: int) -> dict[str, int]:
    """Return the numbers of /proc/PID/status, in bytes; none once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(number) for name, number, _ in fields}


def measured(work: Callable[[], object]) -> tuple[float, int, int]:
    """Run work in a process of its own; return seconds, and peaks of anonymous and of all resident memory."""
    process = multiprocessing.get_context("spawn").Process(target=work)
    started, anonymous, resident = time.perf_counter(), 0, 0
    process.start()
    while process.is_alive():
        found = status(process.pid or 0)
        anonymous = max(anonymous, found.get("RssAnon", 0))
        resident = max(resident, found.get("VmHWM", 0))
        process.join(INTERVAL_SECONDS)
    if process.exitcode:
        raise SystemExit(f"the process ended with status {process.exitcode}: its error is above")
    return time.perf_counter() - started, anonymous, resident


def largest_file(path: Path) -> int:
    return max(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def row(name: str, *values: float | str) -> None:
    print(f"{name:16}", *(f"{v if isinstance(v, str) else format(v, '.1f'):>15}" for v in values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="1.1B")
    config = PRESETS[parser.parse_args().preset]
    shards = math.gcd(8, config.dim, config.n_kv_heads, config.ffn_dim, config.vocab_size)
    model = random_model(config)
    sizes = {name: tensor.bytes for name, tensor in model.tensors.items()}
    block = sum(size for name, size in sizes.items() if name.startswith("layers.0."))
    megabyte = 1e6
    print(
        f"float16: all {sum(sizes.values()) / megabyte:.1f} MB, largest tensor {max(sizes.values()) / megabyte:.1f} "
        f"MB; float32: a block {2 * block / megabyte:.1f} MB, largest tensor {2 * max(sizes.values()) / megabyte:.1f} "
        "MB"
    )
    Path("var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="conversion-", dir="var") as scratch:
        source = Path(scratch) / "native"
        native.write(model, source, shards=8)
        row("", "seconds", "anonymous MB", "resident MB", "largest file MB")
        seconds, *peaks = measured(partial(time.sleep, 1))
        row("imports alone", seconds - 1, *(peak / megabyte for peak in peaks), "-")
        for name, options in {
            f"meta ({shards})": {"to": "meta", "shards": shards},
            "huggingface": {"to": "huggingface"},
            "gguf f16": {"to": "gguf", "quantization": "f16"},
            "gguf q8_0": {"to": "gguf", "quantization": "q8_0"},
        }.items():
            destination = Path(scratch) / name
            seconds, *peaks = measured(partial(convert, source, destination, **options))
            row(name, seconds, *(peak / megabyte for peak in peaks), largest_file(destination) / megabyte)
            source = destination


if __name__ == "__main__":
    main()
