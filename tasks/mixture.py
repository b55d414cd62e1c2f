"""The mix as the tokens stage leaves it and a training run reads it."""

from pathlib import Path

from llama2_core.config import Record
from llama2_core.data.mixture import Mixture, Segment
from llama2_core.errors import DataError
from storage.disk import atomic_write
from storage.errors import SourceError
from storage.shards import TokenShards

MIX = "mix.json"


class StoredMixture(Record):
    """Which rows there are and how often each source's are drawn."""

    fingerprint: str
    """Of the shards that these are rows of."""
    segments: tuple[Segment, ...]


def write_mixture(directory: Path, segments: list[Segment]) -> str:
    """Write mix.json beside the shards; return their fingerprint."""
    fingerprint = TokenShards(directory, "train").fingerprint
    stored = StoredMixture(fingerprint=fingerprint, segments=tuple(segments))
    atomic_write(directory / MIX, stored.model_dump_json(indent=2).encode())
    return fingerprint


def read_mixture(directory: Path, seed: int) -> tuple[TokenShards, Mixture]:
    """Open the shards and their mix. Raises SourceError when shards are not those that the mix was made for."""
    path = directory / MIX
    if not path.is_file():
        raise SourceError(f"{path} is missing. Build the tokens artifact again.")
    stored = StoredMixture.model_validate_json(path.read_text())
    shards = TokenShards(directory, "train")
    if shards.fingerprint != stored.fingerprint:
        raise SourceError(
            f"the shards in {directory} have fingerprint {shards.fingerprint[:12]}, {MIX} was made for "
            f"{stored.fingerprint[:12]}: files were exchanged. Build the tokens artifact again."
        )
    return shards, Mixture(stored.segments, seed)


def refuse_other_tokens(checkpoints: Path, fingerprint: str) -> None:
    """Note which tokens a training run learns from; raise DataError when it began on others."""
    note = checkpoints / "fingerprint"
    if note.exists() and note.read_text() != fingerprint:
        raise DataError(
            f"{checkpoints} was begun on token shards {note.read_text()[:12]}, these are {fingerprint[:12]}. Bring "
            "those shards back, or delete that folder to begin anew."
        )
    checkpoints.mkdir(parents=True, exist_ok=True)
    atomic_write(note, fingerprint.encode())
