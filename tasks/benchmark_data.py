"""Benchmarks' files, brought into the store: recognised, checked, hashed, and kept as the rows that task files read.

One artifact a data set; what is added later joins what is there. No prefect, no torch, no lm-eval.
"""

import csv
import gzip
import io
import json
import re
import shutil
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from llama2_core.config import Natural, Positive, Record
from llama2_core.errors import DataError
from storage.artifacts import Artifact, Store, digest_of
from storage.disk import content_digest
from tasks.benchmark_recipe import FOLDER
from tasks.benchmark_shapes import SHAPES, Row

KIND, VERSION = "benchmark", 1
DATA = "data "
"""Roles of parents that are data sets begin so."""
WHOLE = "default"
"""Folder of a data set without configurations."""
Splits = dict[str, Path]
"""Split -> Parquet file."""


class File(Record):
    """A file as its makers name it."""

    split: str = ""
    """What lm-eval's task files call it."""
    rows: Positive | None = None
    """Of all files of this name together."""


class Dataset(Record):
    """A data set of the table."""

    hub: str = ""
    """Its name on the hub, as task files say it; they may hold {config}."""
    names: tuple[str | None, ...] = (None,)
    """Its configurations there; the same rows serve each."""
    fields: tuple[str, ...] = ()
    """That every record must have."""
    header: tuple[str, ...] = ()
    """Of CSV files that come without one."""
    shape: str = "as_they_are"
    """Function that makes rows of records."""
    beside: str = ""
    """A file that must lie beside each."""
    configs: Natural = 0
    """Parts that it has."""
    resource: str = ""
    """No rows but a package of NLTK's data, of this folder."""
    files: dict[str, File] = Field(min_length=1)
    """Pattern of the path's end -> what it is."""


@dataclass(frozen=True)
class Found:
    """A file that belongs to a data set."""

    dataset: str
    path: Path
    name: str
    """The end of its path, as the pattern has it."""
    pattern: str
    config: str


@cache
def datasets() -> dict[str, Dataset]:
    """Return the table of data sets."""
    table = yaml.safe_load((FOLDER / "datasets.yaml").read_text(encoding="utf-8"))
    return {name: Dataset.model_validate(row) for name, row in table.items()}


def needs(config: Mapping[str, Any]) -> list[str]:
    """Return the data sets that a task's configuration reads."""
    where, name = str(config.get("dataset_path")), config.get("dataset_name")
    found = [key for key, each in datasets().items() if each.hub and _serves(each, where, name)]
    metadata = config.get("metadata")
    return found + (metadata.get("resources", []) if isinstance(metadata, dict) else [])


def _serves(dataset: Dataset, where: str, name: str | None) -> bool:
    if not re.fullmatch(re.escape(dataset.hub).replace(r"\{config\}", ".+"), where):
        return False
    return any(name == each or each == "{config}" for each in dataset.names)


def splits_of(local: Mapping[str, Path]) -> dict[tuple[str, str | None], Splits]:
    """Return the hub's (name, configuration) -> files, for data sets at their folders in the store."""
    found: dict[tuple[str, str | None], Splits] = {}
    for key, folder in local.items():
        dataset = datasets()[key]
        for file in folder.glob("*/*.parquet"):
            config = file.parent.name
            for name in dataset.names:
                served = dataset.hub.replace("{config}", config), name and name.replace("{config}", config)
                found.setdefault(served, {})[file.stem] = file
    return found


def newest(store: Store) -> dict[str, Artifact]:
    """Return data set -> its newest artifact."""
    made = [artifact for artifact in store.artifacts() if artifact.kind == KIND]
    return {artifact.manifest.recipe["dataset"]: artifact for artifact in made}


def add(paths: Sequence[Path], store: Store, dataset: str = "", partial: bool = False) -> list[Artifact]:
    """Bring files, or all that are recognised in folders, into the store.

    Raises DataError for a file that is not recognised, lacks fields or is malformed, and for a number of rows that is
    not the makers', unless a part is what is wanted.
    """
    by_dataset: dict[str, list[Found]] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found = [each for file in files for each in recognise(file, dataset, strict=not path.is_dir())]
        if not found:
            raise DataError(f"{path}: holds no file of a benchmark that we know; {_known(dataset)}")
        for each in found:
            by_dataset.setdefault(each.dataset, []).append(each)
    return [_keep(name, found, store, partial) for name, found in by_dataset.items()]


def recognise(path: Path, only: str = "", strict: bool = True) -> list[Found]:
    """Return what a file is: by the end of its path and its first record's fields. Raises DataError if `strict`."""
    if only and only not in datasets():
        raise DataError(f"there is no data set {only!r}; {_known('')}")
    named = [
        Found(key, path, match[0].strip("/"), pattern, match[1] if match.groups() else WHOLE)
        for key, dataset in datasets().items()
        if only in ("", key)
        for pattern in dataset.files
        if (match := _pattern(pattern).search(path.absolute().as_posix()))
    ]
    lacking = {each.dataset: _lacking(each) for each in named}
    fitting = {each.dataset: each for each in named if not lacking[each.dataset]}
    if len(fitting) > 1 and strict:
        raise DataError(f"{path}: may be {' or '.join(fitting)}; say which with --as")
    if not fitting and strict:
        why = "; ".join(
            f"for {name} its first record lacks {', '.join(fields)}" for name, fields in lacking.items()
        )
        raise DataError(
            f"{path}: not recognised: {why or f'no benchmark has a file so named; {_known(only)}'}"
        )
    return list(fitting.values())


def _known(only: str) -> str:
    rows = {only: datasets()[only]} if only else datasets()
    return "known are " + ", ".join(f"{name} ({', '.join(row.files)})" for name, row in rows.items())


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{config\}", "([^/]+?)").replace(r"\*", "[^/]*")
    return re.compile(rf"(?:^|/){text}(?:\.gz)?$")


def _lacking(found: Found) -> list[str]:
    dataset = datasets()[found.dataset]
    if dataset.resource:
        return []
    beside = _beside(found)
    if beside and not beside.is_file():
        return [f"{beside.name} beside it"]
    first = next(iter(_records(found.path, dataset.header)), {})
    return [field for field in dataset.fields if field not in first]


def _beside(found: Found) -> Path | None:
    pattern = datasets()[found.dataset].beside
    return found.path.with_name(pattern.replace("{stem}", found.path.name.split(".")[0])) if pattern else None


def _records(path: Path, header: Sequence[str]) -> Iterator[Row]:
    """Yield a file's records; a JSON object or a line of text is one. Raises DataError naming the file."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    try:
        text = data.decode("utf-8-sig")
        lines = text.startswith("{") and text[text.find("\n") + 1 :].startswith("{")
        if kind == "jsonl" or (kind == "json" and lines):  # lines are called .json too
            yield from (json.loads(line) for line in text.split("\n") if line.strip())
        elif kind == "json":
            whole = json.loads(text)
            yield from whole if isinstance(whole, list) else [whole]
        elif kind == "csv":
            yield from csv.DictReader(io.StringIO(text, newline=""), header or None)
        elif kind == "xml":
            yield from (
                {part.tag: part.text or "" for part in each} for each in xml.fromstring(text).iter("Problem")
            )
        else:
            yield from ({"text": line} for line in text.split("\n") if line.strip())
    except (ValueError, xml.ParseError) as error:
        raise DataError(f"{path}: not readable as {kind}: {error}; copy it again") from error


def rows_of(found: Found) -> list[Row]:
    """Return a file's rows. Raises DataError naming the file, and the record that lacks a field."""
    dataset = datasets()[found.dataset]
    records = list(_records(found.path, dataset.header))
    for number, record in enumerate(records, start=1):
        lacking = [field for field in dataset.fields if record.get(field) is None]
        if lacking:
            raise DataError(
                f"{found.path}: record {number} lacks {', '.join(lacking)}, as {found.dataset} needs them"
            )
    try:
        rows = list(SHAPES[dataset.shape](records, found.path))
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{found.path}: not {found.dataset} as its makers publish it ({type(error).__name__}: {error})"
        ) from error
    if not rows:
        raise DataError(f"{found.path}: has no rows")
    return rows


def _keep(key: str, found: Sequence[Found], store: Store, partial: bool) -> Artifact:
    dataset = datasets()[key]
    before = newest(store).get(key)
    hashes = dict(before.manifest.recipe["files"]) if before else {}
    hashes |= {each.name: _hash(each) for each in found}
    tables: dict[tuple[str, str], list[Row]] = {}
    if not dataset.resource:
        for each in found:
            place = each.config, dataset.files[each.pattern].split
            tables.setdefault(place, []).extend(rows_of(each))
    counts = dict(before.summary["rows"]) if before else {}
    counts |= {f"{config}/{split}": len(rows) for (config, split), rows in tables.items()}
    wrong = list(_wrong(dataset, found, counts))
    if wrong and not partial:
        raise DataError(
            f"{key}: {'; '.join(wrong)}. Add all files of a split together, or say --partial for a part of them: its "
            "scores can be compared with no published ones"
        )
    recipe = {"dataset": key, "files": hashes}
    digest = digest_of(KIND, VERSION, recipe, {})
    with store.building(KIND, digest) as directory:
        if before and before.digest != digest:
            shutil.copytree(
                before.path, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
            )
        for (config, split), rows in tables.items():
            (directory / config).mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), directory / config / f"{split}.parquet")
        if dataset.resource:
            (directory / dataset.resource).mkdir(exist_ok=True)
            shutil.copy(found[0].path, directory / dataset.resource)
        return store.commit(
            KIND,
            digest,
            version=VERSION,
            recipe=recipe,
            parents={},
            summary={"dataset": key, "rows": counts, "part_only": wrong},
            wall_seconds=0,
            cpu_seconds=0,
            peak_memory_bytes=0,
        )


def _hash(found: Found) -> str:
    beside = _beside(found)
    return content_digest(found.path) + (f"+{content_digest(beside)}" if beside else "")


def _wrong(dataset: Dataset, found: Iterable[Found], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield what is amiss in the number of rows, split by split."""
    for pattern in dict.fromkeys(each.pattern for each in found):
        file = dataset.files[pattern]
        configs = {name: rows for name, rows in counts.items() if name.endswith(f"/{file.split}")}
        rows = sum(configs.values())
        if dataset.configs and len(configs) != dataset.configs:
            yield f"{pattern} has {len(configs)} of its {dataset.configs} parts"
        elif file.rows and rows != file.rows:
            yield f"{pattern} has {rows} rows, expected {file.rows}"
