"""What is known of reward models, as Parquet tables: the scores of held-out comparisons, and what they amount to."""

import pyarrow as pa

_TEXT, _COUNT, _NUMBER, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_ESTIMATE = {
    "value": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "n": _COUNT,
}  # the 95% interval, and of how many

SCORES = pa.schema(
    {
        "model": _TEXT,
        "set": _TEXT,  # helpfulness | safety: what the prompt was written for
        "batch": _TEXT,
        "id": _TEXT,
        "kind": _TEXT,
        "grade": _TEXT,
        "safety_bin": _TEXT,
        "chosen_score": _NUMBER,  # raw, before the sigmoid
        "rejected_score": _NUMBER,
        "chosen_tokens": _COUNT,
        "rejected_tokens": _COUNT,
        "chosen_safe": _FLAG,
        "rejected_safe": _FLAG,
    }
)
TABLES = {
    "reward_models": pa.schema(
        {
            "model": _TEXT,
            "role": _TEXT,  # current | earlier | variant
            "domain": _TEXT,
            "artifact": _TEXT,
            "parameters": _COUNT,
            "pairs": _COUNT,  # learned from
            "margin": _TEXT,
            "auxiliary_weight": _NUMBER,
            "adapters": _FLAG,
        }
    ),
    "reward_accuracy": pa.schema({"model": _TEXT, "set": _TEXT, "part": _TEXT, **_ESTIMATE}),
    "reward_calibration": pa.schema(
        {
            "model": _TEXT,
            "set": _TEXT,
            "of": _TEXT,  # preference | grade | safe
            "bin": _TEXT,
            "predicted": _NUMBER,
            **_ESTIMATE,  # of what came true
        }
    ),
    "reward_measures": pa.schema({"model": _TEXT, "set": _TEXT, "measure": _TEXT, **_ESTIMATE}),
    "reward_errors": pa.schema(
        {
            "model": _TEXT,
            "set": _TEXT,
            "id": _TEXT,
            "grade": _TEXT,
            "confidence": _NUMBER,  # that the rejected answer is better
            "dialog": _TEXT,
            "chosen": _TEXT,
            "rejected": _TEXT,
        }
    ),
    "reward_fitness": pa.schema(
        {"bar": _TEXT, "rule": _TEXT, "limit": _NUMBER, **_ESTIMATE, "verdict": _TEXT, "reason": _TEXT}
    ),
}
"""Name of a file -> its columns."""
