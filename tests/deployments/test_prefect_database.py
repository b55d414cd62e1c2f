"""New homes begin with a copy of Prefect's empty database."""

import sqlite3
from pathlib import Path

import pytest

from deployments.services import prefect_database
from deployments.services.prefect_database import NAME, begin_with_empty, make


def revision(home: Path) -> list[tuple[str]]:
    with sqlite3.connect(home / NAME) as database:
        return database.execute("select version_num from alembic_version").fetchall()


def test_a_copy_is_what_prefect_would_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_database, "EMPTY", tmp_path / "share" / "empty.db")
    begin_with_empty(tmp_path)
    assert not (tmp_path / NAME).exists()  # without one Prefect makes its own

    make()
    begin_with_empty(tmp_path)
    assert len(revision(tmp_path)) == 1
    with sqlite3.connect(tmp_path / NAME) as database:
        assert database.execute("select count(*) from flow_run").fetchall() == [(0,)]


@pytest.mark.parametrize(
    "setting", ["PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"]
)
def test_where_the_database_is_a_server_there_is_no_copy(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_database, "EMPTY", tmp_path / "empty.db")
    (tmp_path / "empty.db").write_bytes(b"empty")
    monkeypatch.setenv(setting, "postgresql+asyncpg://llama2@127.0.0.1/prefect")
    begin_with_empty(tmp_path)
    assert not (tmp_path / NAME).exists()


def test_a_database_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_database, "EMPTY", tmp_path / "empty.db")
    (tmp_path / "empty.db").write_bytes(b"empty")
    home = tmp_path / "home"
    home.mkdir()
    (home / NAME).write_bytes(b"mine")
    begin_with_empty(home)
    assert (home / NAME).read_bytes() == b"mine"
    assert [path.name for path in home.iterdir()] == [NAME]
