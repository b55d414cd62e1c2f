"""The data engine beside datatrove and `datasets`, on the same text, in turns; then its seconds and memory by size.

`python -m benchmarks.data [--rounds 5] [--documents 2000] [--megabytes 10 100] [--gigabyte]`. The text is
../shared/data/web_text where it is there, else Python's own documentation, replicated: a fifth are near copies, of the
rest neighbouring words change places, so that no 5-gram repeats. Filters and duplicates run on one core, tokenizing
and building on two processes; a build has groups of 4 MiB, so that 10 MB are enough for two.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
from datatrove.data import Document as TheirDocument
from datatrove.pipeline import filters
from datatrove.pipeline.dedup import minhash
from datatrove.utils.logging import logger
from tokenizers import Tokenizer as TheirTokenizer
from transformers import PreTrainedTokenizerFast
from xxhash import xxh64_intdigest

from benchmarks.data_scaling import PROCESSES, SHARED, replicated, spread
from llama2_core.data.c4 import C4Rules
from llama2_core.data.documents import Document, Drop
from llama2_core.data.fineweb import FineWebRules
from llama2_core.data.quality import QualityRules, check_quality
from llama2_core.interop.pieces import pieces, tokenizer_json
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from storage.duplicates import SIGNATURES, find_duplicates
from storage.schemas import DOCUMENTS, write_table
from tasks.corpus_groups import read_repeats, signature
from tasks.recipes import TokensRecipe
from tasks.token_groups import Encoding
from tasks.tokens import write_tokens

ROW_TOKENS = 1025
DATATROVES_C4 = {"min_sentences": 5, "min_line_words": 3, "max_word_characters": 1000} | dict.fromkeys(
    ["drop_curly_braces", "strip_javascript", "strip_fragments", "strip_policies", "strip_citations"], True
)
RULES = QualityRules(c4=C4Rules.model_validate(DATATROVES_C4), fineweb=FineWebRules())


def contest(title: str, amount: float, unit: str, rounds: int, runs: dict[str, Callable[[], Any]]) -> None:
    """Print how much of the amount each does in a second, and the ratio of the first to each; a round warms up."""
    print(title, flush=True)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            answers[name] = run()
            if turn:
                speeds[name].append(amount / (time.perf_counter() - started))
    ours = next(iter(speeds.values()))
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(ours, values, strict=True)]
        print(
            f"  {name:16} {statistics.median(values):9.1f} {unit}/s ({min(values):.1f} to {max(values):.1f}); ours is "
            f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}); {answers[name]}",
            flush=True,
        )


def our_filters(texts: Sequence[str]) -> str:
    verdicts = [check_quality(Document(str(n), "web", text), RULES) for n, text in enumerate(texts)]
    return f"{sum(not isinstance(verdict, Drop) for verdict in verdicts)} kept"


def their_filters(texts: Sequence[str]) -> str:
    kinds = ("GopherQualityFilter", "C4QualityFilter", "GopherRepetitionFilter", "FineWebQualityFilter")
    steps = [getattr(filters, kind)() for kind in kinds]
    made = (TheirDocument(text=text, id=str(n)) for n, text in enumerate(texts))
    return f"{sum(all(step.filter(document) is True for step in steps) for document in made)} kept"


def our_duplicates(texts: Sequence[str], scratch: Path) -> str:
    rows = (signature(n, Document(str(n), "web", text)) for n, text in enumerate(texts))
    write_table(scratch / "signatures.parquet", rows, SIGNATURES)
    found = scratch / "duplicates.parquet"
    find_duplicates([scratch / "signatures.parquet"], 0.8, scratch / "spill", found)
    return f"{len(read_repeats(found, 0))} removed"


def their_duplicates(texts: Sequence[str], scratch: Path) -> str:
    """With datatrove's own 14 bands of 8; what shares one goes. xxhash 4 wants bytes, which datatrove 0.10 forgets."""
    signatures, buckets, clusters = (str(scratch / f"datatrove-{stage}") for stage in range(3))
    made = [TheirDocument(text=text, id=str(n)) for n, text in enumerate(texts)]
    config = minhash.MinhashConfig()
    first = minhash.MinhashDedupSignature(signatures, config)
    first._hash_func = lambda shingle: xxh64_intdigest(shingle.encode())
    first.run(made)
    for bucket in range(config.num_buckets):
        step = minhash.MinhashDedupBuckets(signatures, buckets, config=config)
        step.run(rank=bucket, world_size=config.num_buckets)
    minhash.MinhashDedupCluster(buckets, clusters, config).run()
    kept = sum(1 for _ in minhash.MinhashDedupFilter(clusters).run(iter(made)))
    for folder in (signatures, buckets, clusters):
        shutil.rmtree(folder)
    return f"{len(texts) - kept} removed"


def our_tokens(scratch: Path, pool: ProcessPoolExecutor) -> str:
    directory = scratch / "ours-tokens"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    recipe = TokensRecipe(row_tokens=ROW_TOKENS, validation_share=0.05)
    encoding = Encoding(recipe, scratch / "tokenizer.model", 0, 1, directory)
    summary = write_tokens(encoding, scratch / "documents", {}, partial(spread, pool, {}))
    return f"{summary['stored_rows'] + summary['validation_rows']} rows"


def their_tokens(scratch: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    def pack(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        stream = [token for ids in encoded for token in (1, *ids, 2)]
        whole = len(stream) - len(stream) % ROW_TOKENS
        return {"tokens": [stream[start : start + ROW_TOKENS] for start in range(0, whole, ROW_TOKENS)]}

    files = [str(path) for path in sorted((scratch / "documents").glob("*.parquet"))]
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(scratch / "cache"), columns=["text"])
    packed = rows.map(
        pack, batched=True, remove_columns=["text"], num_proc=PROCESSES, load_from_cache_file=False
    )
    packed.to_parquet(scratch / "theirs.parquet")
    return f"{len(packed)} rows"


def tokenizing(texts: Sequence[str], rounds: int, scratch: Path, pool: ProcessPoolExecutor) -> None:
    """Two files of documents become Parquet rows, with the Llama 2 tokenizer where it is there."""
    model = SHARED / "llama2_tokenizer" / "tokenizer.model"
    tokenizer = Tokenizer.load(model) if model.exists() else train_tokenizer(texts, 8000)
    (scratch / "tokenizer.model").write_bytes(tokenizer.model)
    content = json.dumps(tokenizer_json(pieces(tokenizer, scratch / "tokenizer.model")))
    fast = PreTrainedTokenizerFast(tokenizer_object=TheirTokenizer.from_str(content))
    (scratch / "documents").mkdir()
    for part in range(PROCESSES):
        rows = [vars(Document(str(n), "web", text)) for n, text in enumerate(texts[part::PROCESSES])]
        write_table(scratch / "documents" / f"{part}.parquet", rows, DOCUMENTS)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    runs = {
        "llama2-pipeline": partial(our_tokens, scratch, pool),
        "datasets.map": partial(their_tokens, scratch, fast),
    }
    contest(f"tokens to Parquet, {PROCESSES} processes, {megabytes:.1f} MB", megabytes, "MB", rounds, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--gigabyte", action="store_true", help="build a corpus of 1 GB too")
    asked = parser.parse_args()
    logger.remove()
    datasets.disable_progress_bars()
    texts = list(islice(replicated(random.Random(0)), asked.documents))
    Path("var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="data-", dir="var") as folder,
        ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool,
    ):
        scratch = Path(folder)
        spread(pool, {}, "start", time.sleep, [1] * PROCESSES)
        runs: dict[str, Callable[[], Any]] = {
            "llama2-pipeline": partial(our_filters, texts),
            "datatrove": partial(their_filters, texts),
        }
        contest("four quality filters, one core", len(texts), "documents", asked.rounds, runs)
        runs = {
            "llama2-pipeline": partial(our_duplicates, texts, scratch),
            "datatrove": partial(their_duplicates, texts, scratch),
        }
        contest("near duplicates, one core", len(texts), "documents", asked.rounds, runs)
        tokenizing(texts, asked.rounds, scratch, pool)
    sizes = [*asked.megabytes, *[1000] * asked.gigabyte]
    subprocess.run([sys.executable, "-m", "benchmarks.data_scaling", *map(str, sizes)], check=True)


if __name__ == "__main__":
    main()
