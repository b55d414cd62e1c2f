"""Datasets of the Hugging Face hub, or of a local folder in their formats, streamed shard by shard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.documents import Fields, Part, Quarantined, RawDocument, Unreadable
from storage.sources.packages import package_module
from storage.sources.places import digest_of, is_damage

SCHEME = "hub:"


def parts(
    dataset: str, configuration: str | None = None, split: str = "train", revision: str | None = None
) -> list[Part]:
    """Return a part a shard, bound to the commit at which the revision (the main branch, if none is given) is now.

    `dataset` is a name on the hub or a local folder, also one that save_to_disk wrote; the latter has no revision.
    Raises SourceError for what cannot be found or reached, MissingPackage.
    """
    commit = None if Path(dataset).is_dir() else content_digest(dataset, revision)
    settings = {"path": dataset, "name": configuration, "split": split, "revision": commit}
    address = SCHEME + json.dumps(settings)
    name = "/".join(filter(None, [Path(dataset).name, configuration, split]))
    shards = range(_stream(address).num_shards)
    return [Part(address, f"{name}/{shard:05d}", shard, shard + 1) for shard in shards]


def content_digest(dataset: str, revision: str | None = None) -> str:
    """Return the commit of a dataset on the hub, the SHA-256 over names and contents of a local folder."""
    folder = Path(dataset)
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return digest_of({file.relative_to(folder).as_posix(): str(file) for file in files})
    hub = package_module("datasets", "huggingface_hub", "data")
    try:
        return hub.HfApi().dataset_info(dataset, revision=revision).sha
    except Exception as error:  # of httpx, of the hub, of the operating system
        raise _absent(dataset, error) from error


def read(part: Part, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield a document a row of the shard; its id ends in the row's number there, from 0."""
    stream, number = _stream(part.file), 0
    try:
        for row in stream.shard(num_shards=stream.num_shards, index=part.start):
            yield fields.document(f"{part.name}:{number}", row)
            number += 1
    except Exception as error:
        if not isinstance(error, ValueError) and not is_damage(error):
            raise
        detail = f"the shard is left here: {error}"
        yield Unreadable("damaged", detail).at(f"{part.name}:{number}")


def _stream(address: str) -> Any:
    datasets = package_module("datasets", "datasets", "data")
    settings = json.loads(address.removeprefix(SCHEME))
    folder = Path(settings["path"])
    if (folder / "dataset_dict.json").is_file():
        folder /= settings["split"]
    try:
        if (folder / "state.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            return saved.to_iterable_dataset(num_shards=max(1, len(saved.cache_files)))
        return datasets.load_dataset(**settings, streaming=True)
    except (ValueError, OSError) as error:
        raise _absent(settings["path"], error) from error


def _absent(dataset: str, error: Exception) -> SourceError:
    reason = " ".join(str(error).split()).rstrip(".")
    return SourceError(
        f"the dataset {dataset} cannot be opened: {reason}. Check its name, split and the network."
    )
