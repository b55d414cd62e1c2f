"""The whole recipe end to end on the ci profile: real command, real Prefect, real MLflow, real workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from storage.artifacts import Store
from storage.tracking import Tracker

pytestmark = pytest.mark.slow


def command(home: Path, *changes: str) -> list[str]:
    sets = [f"runtime.home={home}", *changes]
    return [
        sys.executable,
        "-m",
        "deployments.cli",
        "run",
        "--profile",
        "ci",
        *(w for s in sets for w in ("--set", s)),
    ]


SECRETS = {
    name: f"a-secret-{name.lower()}-that-must-not-be-written"
    for name in (
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "WEBHOOK_URL",
        "RAY_AUTH_TOKEN",
        "HF_TOKEN",
    )
}


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | SECRETS


def run(home: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *changes), capture_output=True, text=True, env=environment(), timeout=500
    )


def facts(home: Path) -> dict:
    report = json.loads((home / "report" / "report.json").read_text())
    return {name: report[name] for name in ("scores", "verdict", "reward_accuracy", "reward_curve")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is killed twice on its way, parent and child, then asked to end, and finished."""
    home = tmp_path_factory.mktemp("whole") / "var"
    for kind, number in (("base", signal.SIGKILL), ("reward", signal.SIGKILL), ("ppo", signal.SIGTERM)):
        process = subprocess.Popen(
            command(home), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment()
        )
        wait_for(lambda kind=kind, process=process: working(home, kind, process), process)
        os.kill(worker_pid(process) if kind == "reward" else process.pid, number)
        process.wait()
        assert process.returncode != 0
    done = run(home)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "leaked" not in done.stderr  # what libraries say at exit
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS.values())
    return home


def working(home: Path, kind: str, process: subprocess.Popen) -> bool:
    jobs = list((home / "artifacts" / ".partial").glob("*/job.json"))
    return any(json.loads(path.read_text())["kind"] == kind for path in jobs) and worker_pid(process) > 0


def worker_pid(process: subprocess.Popen) -> int:
    children = psutil.Process(process.pid).children(recursive=True)
    return next((child.pid for child in children if "tasks.worker" in child.cmdline()), 0)


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, ValueError, psutil.Error):
            pass
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("the stage never started")


def test_the_report_is_one_self_contained_page(home: Path) -> None:
    page = (home / "report" / "report.html").read_text()
    assert page.count("<svg") == 7
    for named in (
        "http://www.w3.org",
        "http://purl.org",
        "http://creativecommons.org",
        "http://127.0.0.1:5000",
    ):
        page = page.replace(named, "")  # namespaces, and the profile's address of MLflow
    assert "http://" not in page
    assert "simulated annotator" in page
    assert {row["stage"] for row in facts(home)["scores"]} == {"base", "sft", "rejection", "ppo"}


def test_every_artifact_is_whole_and_leads_back_to_the_corpus(home: Path) -> None:
    store = Store(home / "artifacts")
    for artifact in store.artifacts():
        store.verify(artifact)
    assert {a.kind for a in store.lineage(store.resolve("ppo"))} >= {
        "corpus",
        "tokens",
        "base",
        "chat",
        "reward",
    }


def test_mlflow_has_one_parent_and_a_child_a_stage(home: Path) -> None:
    tracker = Tracker(f"sqlite:///{home / 'mlflow.db'}", "llama2", home / "mlflow")
    runs = tracker.runs()
    parents = [run for run in runs if run.data.tags["llama2.kind"] == "pipeline"]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == len(Store(home / "artifacts").artifacts())
    assert all(run.info.status == "FINISHED" for run in runs)
    assert "ppo/problems" in parents[0].data.metrics


def test_the_kept_profile_finds_everything_and_an_unbroken_one_agrees(home: Path, tmp_path: Path) -> None:
    before = {artifact.name for artifact in Store(home / "artifacts").artifacts()}
    [kept] = (home / "report").glob("profile-*.yaml")
    profile = ["run", "--profile", str(kept)]
    again = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *profile],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=500,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert {artifact.name for artifact in Store(home / "artifacts").artifacts()} == before
    unbroken = run(tmp_path / "var")
    assert unbroken.returncode == 0, unbroken.stderr[-2000:]
    assert {artifact.name for artifact in Store(tmp_path / "var" / "artifacts").artifacts()} == before
    assert facts(tmp_path / "var") == facts(home)


def test_no_secret_of_the_environment_is_written(home: Path) -> None:
    """In no log, manifest, report, kept profile, job, database of Prefect's or MLflow's, and no MLflow file."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"mlflow.db", "prefect.db", "prefect.log", "worker.log", "report.html", "manifest.json"} <= {
        path.name for path in files
    }
    for path in files:
        assert b"that-must-not-be-written" not in path.read_bytes(), path


def test_sql_answers_over_the_comparisons(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "sql", "--json", "--home", str(home), "@grades"],
        capture_output=True,
        text=True,
    )
    rows = json.loads(done.stdout)
    assert {row["batch"] for row in rows} == {"1", "2"}


def test_two_runs_at_once_on_one_store(tmp_path: Path) -> None:
    home = tmp_path / "var"
    first = subprocess.Popen(
        command(home), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment()
    )
    try:
        wait_for(lambda: working(home, "base", first), first)
        second = run(home)
        assert second.returncode == 1
        assert f"is being built by process {first.pid}" in " ".join(second.stderr.split())
    finally:
        first.terminate()
        first.wait()


def test_a_bad_source_stops_the_run_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9".encode("latin-1"))
    source = f"recipe.corpus.sources=[{{kind: files, name: mine, paths: [{path}]}}]"
    done = run(tmp_path / "var", source)
    assert done.returncode == 1
    assert "latin.txt" in done.stderr.replace("\n", "")
    assert "UTF-8" in done.stderr


def test_ctrl_c_stops_in_seconds_and_says_how_to_go_on(tmp_path: Path) -> None:
    home = tmp_path / "var"
    process = subprocess.Popen(
        command(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    wait_for(lambda: working(home, "base", process), process)
    worker = psutil.Process(worker_pid(process))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    assert not worker.is_running()
    runs = Tracker(f"sqlite:///{home / 'mlflow.db'}", "llama2", home / "mlflow").runs()
    assert {run.info.status for run in runs if run.data.tags["llama2.kind"] in ("pipeline", "base")} == {
        "KILLED"
    }
