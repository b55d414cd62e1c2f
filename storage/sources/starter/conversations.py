"""Short English conversations by topic, from the package chatterbot-corpus (BSD licence), repeats and all."""

from collections.abc import Iterator

import yaml

from storage.sources.packages import package_files

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""LibYAML's where PyYAML was built with it: ten times as fast."""

TOPICS = [
    "ai",
    "botprofile",
    "coding",
    "computers",
    "conversations",
    "emotion",
    "food",
    "gossip",
    "greetings",
    "health",
    "history",
    "humor",
    "literature",
    "money",
    "movies",
    "politics",
    "psychology",
    "science",
    "sports",
    "tech_support",
    "trivia",
]
FILES = [f"chatterbot_corpus/data/english/{topic}.yml" for topic in TOPICS]
SHA256 = "905a1d222567d5d83f9c7eb99789fac9dc1e6546291f06a367590022dacbf67c"


def conversations() -> Iterator[tuple[str, list[str]]]:
    """Yield (topic, turns); the user has the first turn and the sides alternate."""
    for topic, file in zip(TOPICS, package_files("chatterbot-corpus", FILES, SHA256), strict=True):
        for turns in yaml.load(file.read_text(encoding="utf-8"), Loader)["conversations"]:
            yield topic, [turn.strip() for turn in turns]
