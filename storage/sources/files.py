"""A user's own text: .txt files, one document each, and .jsonl files, one {"text": ...} or dialog a line."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.errors import SourceError


def read_documents(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of every document that is not blank; the id is the file's name, and line in a .jsonl.

    `paths` are files, folders (searched to the bottom) or glob patterns. Raises SourceError, naming file and
    place, for text that is not UTF-8, a bad line, a path that matches nothing, or only blank documents.
    """
    count = 0
    for name, file in matching_files(paths).items():
        documents = (
            _lines(name, file) if file.suffix == ".jsonl" else [(name, _decode(file.read_bytes(), name))]
        )
        for document_id, text in documents:
            if text.strip():
                count += 1
                yield document_id, text
    if not count:
        raise SourceError(f"{', '.join(paths)}: every document is blank; give files that hold text")


def read_dialogs(file: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield (place, messages) of every line {"messages": [...]}. Raises SourceError naming the line."""
    count = 0
    for place, row in _rows(file.name, _only(file)):
        if not isinstance(row.get("messages"), list):
            raise SourceError(
                f'{place}: no list named "messages"; a line looks like {{"messages": [{{"role": "user", '
                '"content": "..."}, {"role": "assistant", "content": "..."}]}'
            )
        count += 1
        yield place, row["messages"]
    if not count:
        raise SourceError(f"{file}: every line is blank; give a file that holds dialogs")


def _only(file: Path) -> Path:
    if not file.is_file():
        raise SourceError(f"{file}: no such file")
    return file


def files_digest(paths: Sequence[str]) -> str:
    """Return the SHA-256 over names and contents, whichever folder or machine the files lie on."""
    digest = hashlib.sha256()
    for name, file in matching_files(paths).items():
        with file.open("rb") as content:
            digest.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def matching_files(paths: Sequence[str]) -> dict[str, Path]:
    """Return the files by name, in order; a name is the path from the deepest folder that holds them all."""
    files = {file.absolute() for path in paths for file in _expand(path)}
    if not files:
        raise SourceError(
            "no paths are given; name .txt or .jsonl files, a folder or a pattern such as data/*.jsonl"
        )
    folder = os.path.commonpath([file.parent for file in files])
    return {file.relative_to(folder).as_posix(): file for file in sorted(files)}


def _expand(path: str) -> list[Path]:
    folder = Path(path)
    if folder.is_dir():
        files = [file for file in folder.rglob("*") if file.suffix in (".txt", ".jsonl")]
    else:
        matches = glob.glob(path, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
        files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise SourceError(f"{path}: no file matches; check the path, or quote the pattern in the shell")
    for file in files:
        if file.suffix not in (".txt", ".jsonl"):
            raise SourceError(
                f"{file}: only .txt and .jsonl files are read; narrow the pattern or convert the file"
            )
    return files


def _lines(name: str, file: Path) -> Iterator[tuple[str, str]]:
    for place, row in _rows(name, file):
        if not isinstance(row.get("text"), str):
            raise SourceError(f'{place}: no string named "text"; a line looks like {{"text": "..."}}')
        yield place, row["text"]


def _rows(name: str, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) of every line that is not blank."""
    offset = 0
    with file.open("rb") as content:
        for number, line in enumerate(content, start=1):
            place = f"{name}:{number}"
            text = _decode(line, name, offset)
            offset += len(line)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise SourceError(
                    f"{place}: not JSON ({error}); a .jsonl file holds one object a line"
                ) from None
            if not isinstance(row, dict):
                raise SourceError(f"{place}: not an object; a .jsonl file holds one object a line")
            yield place, row


def _decode(data: bytes, name: str, offset: int = 0) -> str:
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if offset == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise SourceError(
            f"{name}: byte {offset + error.start} (0x{data[error.start]:02x}) is not UTF-8; "
            f"if the file is {encoding}, convert it with: iconv -f {encoding} -t UTF-8 {name}"
        ) from None
