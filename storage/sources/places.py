"""Where the bytes are: files of any file system that fsspec knows, found by name, opened, decompressed, digested.

Credentials and endpoints are fsspec's own business: AWS_* and FSSPEC_* variables or ~/.config/fsspec, never a recipe.
"""

import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from storage import disk
from storage.errors import MissingPackage, SourceError
from storage.sources.packages import package_module

FORMAT = re.compile(r"\.(txt|jsonl|csv|warc|parquet)((?<!parquet)\.(?:gz|zst))?(?:\?.*)?$", re.IGNORECASE)
"""How a file's name, or a URL with its query, ends."""
CHECKSUMS = ("ETag", "etag", "md5Hash", "Content-MD5", "blob_id")
"""What S3, Azure, Google Cloud, HTTP servers and the Hugging Face hub call a content's checksum."""
BUFFER_BYTES = 1 << 20


class Found(NamedTuple):
    """A file: what opens it, and its bytes, 0 where the file system does not say."""

    file: str
    size: int


def find_files(paths: Sequence[str]) -> dict[str, Found]:
    """Return the files by name, in order; a name is the path from the deepest folder that holds them all.

    `paths` are files, folders (searched to the bottom for the known formats) and glob patterns, here or by URL.
    Raises SourceError for a path that matches nothing or another format, MissingPackage for a file system's driver.
    """
    found = {file: Found(file, size) for path in paths for file, size in _expand(path)}
    if not found:
        raise SourceError("no paths are given; name files, a folder or a pattern such as data/*.jsonl")
    ordered = sorted(found, key=lambda file: file.split("/"))
    depth = len(os.path.commonprefix([file.split("/")[:-1] for file in ordered]))  # noqa: RUF071 (of lists)
    return {_name("/".join(file.split("/")[depth:])): found[file] for file in ordered}


def _name(path: str) -> str:
    """Spell out the bytes of a file's name that are not UTF-8, so that an id can always be stored."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _expand(path: str) -> Iterator[tuple[str, int]]:
    fs, root = file_system(path)
    try:
        infos = _listed(fs, root, bool(FORMAT.search(path)))
    except OSError as error:
        raise SourceError(
            f"{path} cannot be listed: {error}; check the address, the network and the credentials"
        ) from error
    files = [file for file, info in infos.items() if info["type"] == "file"]
    if not files:
        raise SourceError(f"{path}: no file matches; check the path, or quote the pattern in the shell")
    for file in files:
        if not FORMAT.search(file):
            raise SourceError(
                f"{file}: only .txt, .jsonl, .csv, .warc (each also .gz or .zst) and .parquet files are read; "
                "narrow the pattern or convert the file"
            )
        yield (
            file if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(file),
            infos[file].get("size") or 0,
        )


def _listed(fs: Any, root: str, names_a_file: bool) -> dict[str, Any]:
    """Return file -> what its file system knows of it."""
    if names_a_file and fs.isfile(root):
        return {root: fs.info(root)}
    if fs.isdir(root):
        return {file: info for file, info in fs.find(root, detail=True).items() if FORMAT.search(file)}
    return fs.glob(root, detail=True)


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system and the path in it. Raises SourceError, and MissingPackage for one's driver."""
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise MissingPackage(f'{url}: {error}; for s3://: pip install "llama2-pipeline[data]"') from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}; give a path or a URL such as s3://bucket/folder") from None


def format_of(file: str) -> tuple[str, str]:
    """Return ("jsonl", ".gz") for a.jsonl.gz and the like, two empty strings for a format that is not read."""
    match = FORMAT.search(file)
    return (match[1].lower(), (match[2] or "").lower()) if match else ("", "")


def is_http(file: str) -> bool:
    """Many web servers send a file only from its beginning: it is read as one stream, and never cut."""
    return file.startswith(("http://", "https://"))


@contextmanager
def open_bytes(file: str) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed. Raises SourceError when it is not there or may not be read."""
    fs, path = file_system(file)
    options = {"block_size": 0} if is_http(file) and format_of(file)[0] != "parquet" else {}
    try:
        opened = fs.open(path, "rb", **options)
    except (FileNotFoundError, PermissionError) as error:
        raise SourceError(
            f"{file} cannot be opened: {error}. Check that it is there and may be read."
        ) from error
    with opened, _decompressed(file, io.BufferedReader(opened, BUFFER_BYTES)) as stream:
        yield stream


def _decompressed(file: str, stream: io.BufferedReader) -> BinaryIO:
    """Both raise an error where the data end early, after all that could be decompressed was read."""
    match format_of(file)[1]:
        case ".gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
        case ".zst" if stream.peek(1):  # an empty file is empty, not damaged, as with gzip
            return package_module("backports.zstd", "backports.zstd", "data").ZstdFile(stream)
        case _:
            return stream


def is_damage(error: Exception) -> bool:
    """Tell a file's own damage, which no retry mends, from trouble on the way to it.

    Arrow and FastWARC report damage as a bare OSError; those of disks and networks have a number or another type.
    """
    return (
        isinstance(error, EOFError | gzip.BadGzipFile | zlib.error | UnicodeDecodeError | pa.ArrowException)
        or type(error).__name__ == "ZstdError"
        or (type(error) is OSError and error.errno is None)
    )


def content_digest(paths: Sequence[str]) -> str:
    """Return the SHA-256 over names and contents, whichever folder or machine the files lie on.

    A remote file counts by the checksum or ETag that its server states, and is read where it states none.
    """
    return digest_of({name: found.file for name, found in find_files(paths).items()})


def digest_of(files: Mapping[str, str]) -> str:
    """Return the SHA-256 over files by name, in the order given."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{_checksum(file)}\n".encode())
    return digest.hexdigest()


def _checksum(file: str) -> str:
    fs, path = file_system(file)
    if isinstance(fs, LocalFileSystem):
        return disk.content_digest(Path(file))
    info = fs.info(path)
    stated = next((f"{key} {info[key]}" for key in CHECKSUMS if info.get(key)), None)
    if stated:
        return stated
    with fs.open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
