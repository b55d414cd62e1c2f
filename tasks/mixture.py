"""The mix as the tokens stage leaves it and a training run reads it."""

from pathlib import Path

from llama2_core.config import Record
from llama2_core.data.mixture import Mixture, Segment
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
