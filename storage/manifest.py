"""What an artifact is called, and what is written down of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

MANIFEST = "manifest.json"


def digest_of(kind: str, version: int, recipe: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """Name a result by its inputs: SHA-256 of canonical JSON, 64 hex digits, shown as the first 12.

    `parents` maps a role to "kind/digest". Raises ValueError for NaN and infinities, TypeError for whatever
    JSON cannot say; a Path is such a thing on purpose: no location may enter an identity.
    """
    identity = {"kind": kind, "version": version, "recipe": dict(recipe), "parents": dict(parents)}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileRecord(Record):
    """One file as it was when committed."""

    sha256: str
    bytes: int


class Manifest(Record):
    """What an artifact is, what it came from, what it cost and what it found."""

    kind: str
    digest: str
    format_version: int
    """Raised by hand when a change of code changes this kind's results."""
    recipe: dict[str, Any]
    parents: dict[str, str]
    """Role -> "kind/digest"."""
    files: dict[str, FileRecord]
    """Path relative to the artifact, with forward slashes."""
    created_at: str
    """ISO 8601, UTC, microseconds: sorts as text."""
    git_commit: str
    """Of the code that built it, "-dirty" appended when it had local changes; "" outside a checkout."""
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    energy_kwh: float = 0.0
    kg_co2: float = 0.0
    energy_method: str = "not counted"
    """How electricity was measured or estimated; not at all before it was counted."""
    summary: dict[str, Any]
    """The stage's headline facts, JSON."""
