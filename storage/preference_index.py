"""The index of the log: what is counted of each event, without the texts, in a DuckDB file derived from the log.

It is built beside and renamed into place, so that whoever reads the old one goes on. Only lines that are new since
the last time are read; without an index, or with a changed log, all are.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import duckdb

from storage.disk import atomic_path
from storage.preference_log import IMPORTS, LOG, complete_bytes, parse_line

INDEX = "preferences.duckdb"
VERSION = 2
"""Raised when the index's columns change."""
MEMORY_BYTES = 1 << 30
SQL = Path(__file__).parent / "sql" / "preferences"
Covered = dict[str, int]
"""File below the folder -> bytes of it that the index holds."""


def refresh(folder: Path) -> Path | None:
    """Bring the index up to date and return its path; None where nothing was annotated or imported.

    Raises StorageError naming the line of the log that is no event.
    """
    wanted = _files(folder)
    if not any(wanted.values()):
        return None
    index = folder / INDEX
    covered = _covered(index)
    if covered == wanted:
        return index
    if any(size > wanted.get(name, -1) for name, size in covered.items()):
        covered = {}
    with atomic_path(index) as temporary:
        if covered:
            shutil.copyfile(index, temporary)
        _extend(temporary, folder, covered, wanted)
    return index


def attach(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Make the log's views in a connection that has the artifacts' `comparisons`."""
    index = refresh(folder)
    if index:
        files = ", ".join(_quoted(folder / name) for name, size in _files(folder).items() if size)
        connection.execute(f"ATTACH {_quoted(index)} AS log (READ_ONLY)")
        connection.execute(f"CREATE VIEW texts AS {_sql('texts').replace('$files', f'[{files}]')}")
    else:
        connection.execute("ATTACH ':memory:' AS log")
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as empty:
            connection.execute(f"CREATE TABLE log.events AS {_sql('events')}", {"files": [empty.name]})
            connection.execute(f"CREATE TABLE texts AS {_sql('texts')}", {"files": [empty.name]})
        connection.execute(f"USE log; CREATE TABLE repeated AS {_sql('repeated')}; USE memory")
    connection.execute(_sql("views"))


def _extend(index: Path, folder: Path, covered: Covered, wanted: Covered) -> None:
    """Add to an index what it lacks, in bounded memory."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".index-")))
        connection = stack.enter_context(duckdb.connect(index))
        connection.execute("SET memory_limit = ?", [f"{MEMORY_BYTES}B"])
        connection.execute("SET temp_directory = ?", [str(scratch)])
        connection.execute("SET preserve_insertion_order = false")
        files = [
            str(_tail(folder / name, covered.get(name, 0), scratch))
            for name, size in wanted.items()
            if size > covered.get(name, 0)
        ]
        if covered:
            connection.execute(
                f"INSERT INTO events SELECT * FROM ({_sql('events')}) AS new "
                "WHERE NOT EXISTS (FROM events AS old WHERE old.event = new.event AND old.id = new.id)",
                {"files": files},
            )
        else:
            connection.execute(f"CREATE TABLE events AS {_sql('events')}", {"files": files})
        if connection.execute("SELECT count(*) FROM events WHERE id IS NULL").fetchall() != [(0,)]:
            _find_bad_line(folder, wanted)
            connection.execute("DELETE FROM events WHERE id IS NULL")  # a line that was being written
        connection.execute(
            "DELETE FROM events AS made USING events AS undo WHERE made.event IN ('comparison', 'rating') "
            "AND undo.event = 'undo' AND undo.id = made.id AND undo.annotator = made.annotator"
        )
        connection.execute(f"CREATE OR REPLACE TABLE repeated AS {_sql('repeated')}")
        rows = [(VERSION, name, size) for name, size in wanted.items()]
        connection.execute("CREATE OR REPLACE TABLE covered (version INT, file VARCHAR, bytes BIGINT)")
        connection.executemany("INSERT INTO covered VALUES (?, ?, ?)", rows)


def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text()


def _files(folder: Path) -> Covered:
    """Return the complete bytes of the log and of each import."""
    found = {LOG: complete_bytes(folder / LOG)}
    for path in sorted((folder / IMPORTS).glob("*.jsonl")):
        found[f"{IMPORTS}/{path.name}"] = path.stat().st_size
    return found


def _covered(index: Path) -> Covered:
    """Return what an index covers, nothing when it is none or of another version."""
    if not index.exists():
        return {}
    with suppress(duckdb.Error), duckdb.connect(index, read_only=True) as connection:
        rows = connection.execute("SELECT file, bytes FROM covered WHERE version = ?", [VERSION]).fetchall()
        return dict(rows)
    return {}


def _tail(path: Path, start: int, scratch: Path) -> Path:
    """Return a file that holds what follows `start`: the file itself, or a copy of its end."""
    if start == 0:
        return path
    copy = scratch / path.name
    with path.open("rb") as file, copy.open("wb") as tail:
        os.lseek(file.fileno(), start, os.SEEK_SET)
        shutil.copyfileobj(file, tail)
    return copy


def _find_bad_line(folder: Path, wanted: Covered) -> None:
    """Raise StorageError naming the first line that is no event, if there is one."""
    for name, size in wanted.items():
        path, read = folder / name, 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                read += len(line)
                if read > size:
                    break
                parse_line(line, path, number)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
