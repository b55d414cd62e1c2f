"""Small facts of our own: questions with short answers, constraints with the word that each leaves, dated events."""

import csv
from pathlib import Path
from typing import Literal

Name = Literal["questions", "constraints", "events"]


def facts_file(name: Name) -> Path:
    return Path(__file__).with_name(f"{name}.csv")


def facts(name: Name) -> list[dict[str, str]]:
    """Return the rows: question, answer; or kind, value, sign; or event, date."""
    with facts_file(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
