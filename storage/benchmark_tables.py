"""What benchmarks leave: every answer, and the scores with their intervals."""

import pyarrow as pa

_TEXT, _COUNT, _NUMBER, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

BENCHMARK_SAMPLES = pa.schema(
    {
        "task": _TEXT,
        "document": _COUNT,
        "filter": _TEXT,  # of lm-eval: how the answer was read
        "prompt": _TEXT,
        "target": _TEXT,
        "answers": _TEXT,  # JSON: what the model said, or (log-probability, greedy) of each choice
        "read": _TEXT,  # JSON: the same after the filter
        "scores": _TEXT,  # JSON: metric -> value
    }
)
BENCHMARK_SCORES = pa.schema(
    {
        "task": _TEXT,
        "is_group": _FLAG,
        "metric": _TEXT,
        "filter": _TEXT,
        "shots": _COUNT,
        "value": _NUMBER,
        "stderr": _NUMBER,  # lm-eval's; null where it has none
        "low": _NUMBER,  # 95% interval: Wilson's for shares, else normal
        "high": _NUMBER,
        "n": _COUNT,
        "higher_is_better": _FLAG,
        "version": _TEXT,  # of the task's file
        "prompt_hash": _TEXT,  # SHA-256 of all that was asked: prompts, choices, settings of generation
        "members": pa.list_(_TEXT),  # the single tasks that it is the score of
    }
)
CONTAMINATION = pa.schema(
    {
        "task": _TEXT,
        "metric": _TEXT,
        "length": _COUNT,  # shortest match that counts, in tokens
        "subset": _TEXT,  # clean, not clean, not dirty, dirty
        "contaminated": _NUMBER,  # mean share of its samples' tokens
        "n": _COUNT,
        "mean": _NUMBER,
        "z": _NUMBER,  # deviations of the mean from that of all samples
        "helped": _FLAG,  # of the task at this length: all four subsets beyond 2, in the expected directions
    }
)
