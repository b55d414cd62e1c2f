"""Seconds and memory of building a corpus, by its size.

`python -m benchmarks.data_scaling [MEGABYTES ...]`; `benchmarks.data` runs it, in a process of its own for the memory.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from storage.sources.starter import python_docs
from tasks import corpus_sources
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe, FileSource
from tasks.process import Meter

SHARED = Path(__file__).parents[2] / "shared" / "data"
PROCESSES, GROUP_BYTES = 2, 4 << 20


def pages() -> list[str]:
    files = sorted((SHARED / "web_text").glob("*.jsonl"))
    found = [json.loads(line).get("text") for file in files for line in file.read_text().splitlines()]
    return [text for text in found if text] or [text for _, text in python_docs.topics()]


def replicated(draws: random.Random) -> Iterator[str]:
    """Yield pages without end."""
    originals = pages()
    while True:
        lines = [line.split(" ") for line in draws.choice(originals).split("\n")]
        near = draws.random() < 0.2
        for words in lines:
            for place in range(0, len(words) - 2, 3):
                if not near or draws.random() < 0.01:
                    words[place], words[place + 1] = words[place + 1], words[place]
        yield "\n".join(" ".join(words) for words in lines)


def scale(sizes: Sequence[int], scratch: Path, pool: ProcessPoolExecutor) -> None:
    """Build a corpus of each size, and print the seconds, their ratio to the size before, and peaks of memory."""
    corpus_sources.GROUP_BYTES = GROUP_BYTES
    print(f"build_corpus, {PROCESSES} processes")
    print(f"{'MB':>7}{'documents':>11}{'seconds':>9}{'ratio':>7}{'MB/s':>7}{'parent MB':>11}  workers MB")
    before = 0.0
    for megabytes in sizes:
        texts, directory = scratch / f"texts-{megabytes}", scratch / f"corpus-{megabytes}"
        write_texts(texts, megabytes * 10**6)
        directory.mkdir()
        recipe = CorpusRecipe(sources=(FileSource(name="web", paths=(str(texts),)),))
        meter, peaks, started = Meter(), {}, time.perf_counter()
        summary = build_corpus(recipe, directory, partial(spread, pool, peaks))
        seconds = time.perf_counter() - started
        ratio = f"{seconds / before:.2f}" if before else "-"
        workers = " ".join(f"{peak / 1e6:.0f}" for peak in peaks.values())
        print(
            f"{megabytes:7}{summary['documents_read']:11}{seconds:9.1f}{ratio:>7}{megabytes / seconds:7.2f}"
            f"{meter.peak_memory_bytes() / 1e6:11.0f}  {workers}",
            flush=True,
        )
        before = seconds


def write_texts(folder: Path, size: int) -> None:
    """Write files of a group each, for a larger one would be cut into parts of 64 MiB only."""
    texts = replicated(random.Random(size))
    folder.mkdir()
    for start in range(0, size, GROUP_BYTES):
        with (folder / f"{start:012d}.jsonl").open("w") as file:
            while file.tell() < min(GROUP_BYTES, size - start):
                file.writelines(json.dumps({"text": next(texts)}) + "\n" for _ in range(10))


def spread(
    pool: ProcessPoolExecutor, peaks: dict[int, int], name: str, work: Any, groups: Sequence[Any]
) -> None:
    """Do the work on the groups in the pool's processes, and note the largest memory of each."""
    for process, peak in pool.map(partial(measured, work), groups):
        peaks[process] = max(peak, peaks.get(process, 0))


def measured(work: Callable[[Any], None], group: Any) -> tuple[int, int]:
    meter = Meter()
    work(group)
    return os.getpid(), meter.peak_memory_bytes()


def main() -> None:
    Path("var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="data-", dir="var") as scratch,
        ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool,
    ):
        spread(pool, {}, "start", time.sleep, [1] * PROCESSES)
        scale([int(size) for size in sys.argv[1:]] or [10, 100], Path(scratch), pool)


if __name__ == "__main__":
    main()
