"""Prompts that wait for annotators: those of the dialogs stage, or a file of one's own."""

import json
from pathlib import Path

from deployments.services.annotation.seat import Queued
from storage.artifacts import Store
from storage.preference_events import Turn
from storage.sources.prompts import read_prompt_file
from tasks.stage_models import model_artifact
from tasks.tables import read_prompt_rows


def read_queue(name: str, store: Store) -> list[Queued]:
    """Return the prompts of a file or of a dialogs artifact. Raises SourceError naming file and row."""
    if not name:
        return []
    file = Path(name)
    rows = (
        read_prompt_file(file)
        if file.is_file()
        else read_prompt_rows(model_artifact(name, store).path, "train")
    )
    return [
        Queued(
            row["id"],
            row["kind"],
            "safety" if row["safety"] else "helpfulness",
            tuple(Turn.model_validate(turn) for turn in json.loads(row["dialog"])),
            row["risk_category"] or "",
            row["attack_vector"] or "",
        )
        for row in rows
    ]
