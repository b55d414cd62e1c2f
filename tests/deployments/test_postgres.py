"""Prefect's server and MLflow on a PostgreSQL of our own, with a flow that builds an artifact."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.services.prefect_server import free_port

ROOT = Path(__file__).parents[2]
BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
NOBODY = 65534
PASSWORD = "a-secret-of-the-test"

# Runs a flow of one stage, against the databases that the environment names.
FLOW = """
import sys
from pathlib import Path
from deployments.environment import prepare
prepare(Path(sys.argv[1]))
from prefect import flow
from deployments.services.flow_runs import running_flows
from tasks.jobs import Job
from tasks.launch import build
from tasks.recipes import TokensRecipe
from tasks.runtime import Runtime

@flow
def one_stage(runtime: Runtime) -> str:
    def work(directory):
        (directory / "rows.txt").write_text("one")
        return {"rows": 1}
    return build(Job("tokens", "tokens", TokensRecipe()), runtime, work)

with running_flows(Path(sys.argv[1])):
    one_stage(Runtime(home=Path(sys.argv[1]), mlflow_uri=sys.argv[2]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """Return user@host:port of a server on the loopback address, with a password, run by nobody when we are root."""
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    if not BINARIES:
        pytest.skip("needs PostgreSQL's server")
    folder, port, secret = tmp_path / "postgres", free_port(), tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\n")
    known = {**os.environ, "PGPASSWORD": PASSWORD}
    folder.mkdir()
    user: dict[str, int | list[int]] = {}
    if os.geteuid() == 0:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        for path in (folder, secret):
            os.chown(path, NOBODY, NOBODY)
        for path in (tmp_path, *tmp_path.parents[:2]):
            path.chmod(path.stat().st_mode | 0o011)

    def run(name: str, *words: str) -> None:
        done = subprocess.run(
            [str(BINARIES / name), *words], capture_output=True, text=True, cwd=folder, env=known, **user
        )
        assert done.returncode == 0, done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    run(
        "initdb",
        "-D",
        data,
        "-U",
        "llama2",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--no-sync",
        "-E",
        "UTF8",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        for name in ("prefect", "mlflow"):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "llama2", name)
        yield f"llama2@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.drill
def test_prefect_and_mlflow_on_postgresql(database: str, tmp_path: Path) -> None:
    import psycopg2

    home, place = tmp_path / "var", database.partition("@")[2]
    host, port = place.split(":")
    known = {"user": "llama2", "password": PASSWORD, "host": host, "port": port}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PGPASSWORD": PASSWORD,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}/prefect",
    }
    command = [sys.executable, "-c", FLOW, str(home), f"postgresql://{database}/mlflow"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr

    def ask(name: str, query: str) -> list[tuple]:
        with psycopg2.connect(**known, dbname=name) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    assert ask("prefect", "SELECT state_type, count(*) FROM flow_run GROUP BY 1") == [("COMPLETED", 1)]
    assert ask("prefect", "SELECT count(*) FROM artifact WHERE key = 'tokens'") == [(1,)]
    assert ask("mlflow", "SELECT status, name FROM runs") == [("FINISHED", "tokens")]
    assert ask("mlflow", "SELECT count(*) FROM params WHERE value LIKE '%secret%'") == [(0,)]
    assert not (home / "mlflow.db").exists() and not (home / "prefect" / "prefect.db").exists()
