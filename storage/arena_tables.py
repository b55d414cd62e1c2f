"""Tables of models beside models, as Arrow schemas."""

import pyarrow as pa

_TEXT, _COUNT, _SCORE, _FLAG = pa.string(), pa.int32(), pa.float32(), pa.bool_()
_TEXTS = pa.list_(_TEXT)

REPLIES = pa.schema({"prompt_id": _TEXT, "temperature": _SCORE, "sample": _COUNT, "response": _TEXT})
SHEET = pa.schema(  # what is judged: two answers to a prompt, or one
    {
        "id": _TEXT,
        "prompt_id": _TEXT,
        "kind": _TEXT,
        "category": _TEXT,  # of risk; "" where there is none
        "safety": _FLAG,
        "turns": _COUNT,  # of the user
        "dialog": _TEXT,
        "models": _TEXTS,
        "answers": _TEXTS,
    }
)
VERDICTS = pa.schema(
    [
        *SHEET,
        ("outcome", _TEXT),  # of the first answer: win | tie | loss | violation | safe | unjudged
        ("detail", _TEXT),  # why it is a tie, or not judged
        (
            "ratings",
            pa.list_(_SCORE),
        ),  # a reward margin, a judge's in both orders, or people's; for the first answer
        ("said", _TEXTS),  # the judge's words in both orders, or who rated
    ]
)
