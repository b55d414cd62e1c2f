"""Tables of the safety stages, as Arrow schemas."""

import pyarrow as pa

_TEXT, _SCORE, _FLAG = pa.string(), pa.float32(), pa.bool_()

DISTILLED = pa.schema(
    {
        "prompt_id": _TEXT,
        "risk_category": _TEXT,
        "attack_vector": _TEXT,
        "dialog": _TEXT,  # without the preprompt, as it is learned
        "preprompt": _TEXT,
        "original": _TEXT,  # answer without it
        "response": _TEXT,  # answer behind it
        "original_safety": _SCORE,  # sigmoid of the safety model's score, as safety
        "safety": _SCORE,
        "kept": _FLAG,
    }
)
ANSWERS = pa.schema(
    {
        "prompt_id": _TEXT,
        "kind": _TEXT,
        "response": _TEXT,
        "helpfulness": _SCORE,  # sigmoid of the raw score, as safety
        "safety": _SCORE,
        "unsafe": _FLAG,
        "refused": _FLAG,
    }
)
