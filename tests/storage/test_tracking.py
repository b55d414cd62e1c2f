"""A real MLflow database: runs nest, continue after a kill, and hold whole curves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storage.tracking import Tracker, flatten, metric_name, points

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/not/yet/there/mlflow.db"


@pytest.fixture(scope="module")
def tracker(uri: str, folder: Path) -> Tracker:
    return Tracker(uri, "llama2", folder / "files")


@pytest.fixture(scope="module")
def client(tracker: Tracker, uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def test_the_experiment_is_made_once(tracker: Tracker, uri: str, folder: Path) -> None:
    assert Tracker(uri, "llama2", folder / "files").experiment_id == tracker.experiment_id


def test_children_nest_under_their_parent(tracker: Tracker, client: MlflowClient) -> None:
    parent = tracker.start("llama2", "nest", {})
    children = {tracker.start(stage, f"nest-{stage}", {}, parent) for stage in ("sft", "ppo")}
    filters = f"tags.`mlflow.parentRunId` = '{parent}'"
    found = client.search_runs([tracker.experiment_id], filters)
    assert {run.info.run_id for run in found} == children
    assert {run.info.run_name for run in found} == {"sft", "ppo"}
    assert parent not in children


def test_children_are_found_by_how_they_ended(tracker: Tracker) -> None:
    parent = tracker.start("llama2", "endings", {})
    done, failed, at_work = (tracker.start(n, f"end-{n}", {"llama2.label": n}, parent) for n in "abc")
    tracker.finish(done)
    tracker.finish(failed, "FAILED")
    unfinished = tracker.children(parent, "!= 'FINISHED'")
    assert {run: tags["llama2.label"] for run, tags in unfinished.items()} == {failed: "b", at_work: "c"}
    assert list(tracker.children(parent, "= 'RUNNING'")) == [at_work]


def test_the_newest_run_of_a_key(tracker: Tracker) -> None:
    tracker.finish(tracker.start("sft", "newest", {}))
    second = tracker.start("sft", "newest", {})
    assert tracker.newest("newest") == second
    assert tracker.newest("never started") == ""


# The worst end a run can have: its process is killed and nobody marks it.
STARTER = """
import sys, time
from pathlib import Path
from storage.tracking import Tracker
tracker = Tracker(sys.argv[1], "llama2", Path(sys.argv[2]))
print(tracker.start("pretrain", "killed", {"llama2.kind": "model"}), flush=True)
time.sleep(60)
"""


def test_a_killed_run_is_continued(tracker: Tracker, client: MlflowClient, uri: str, folder: Path) -> None:
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-c", STARTER, uri, str(folder / "files")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    killed = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert tracker.start("pretrain", "killed", {}) == killed
    assert client.get_run(killed).data.tags["llama2.kind"] == "model"


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_an_unfinished_run_runs_again(status: str, tracker: Tracker, client: MlflowClient) -> None:
    first = tracker.start("sft", f"again-{status}", {})
    tracker.finish(first, status)
    assert client.get_run(first).info.status == status
    assert tracker.start("sft", f"again-{status}", {}) == first
    assert client.get_run(first).info.status == "RUNNING"


def test_a_finished_run_and_another_parents_are_left_alone(tracker: Tracker) -> None:
    first = tracker.start("sft", "finished", {})
    tracker.finish(first)
    assert tracker.start("sft", "finished", {}) != first
    mine = tracker.start("sft", "shared", {}, parent="p1")
    assert tracker.start("sft", "shared", {}, parent="p2") != mine
    assert tracker.start("sft", "shared", {}, parent="p1") == mine


# A process that dies after the first of two aliases.
MOVER = """
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from storage.tracking import Tracker
give = MlflowClient.set_registered_model_alias
def give_and_die(self, *names):
    give(self, *names)
    os.kill(os.getpid(), signal.SIGKILL)
tracker = Tracker(sys.argv[1], "llama2", Path(sys.argv[2]))
MlflowClient.set_registered_model_alias = give_and_die
tracker.move("moved", {"previous": "1", "champion": "2", "candidate": ""})
"""


def test_aliases_move_together_or_are_moved_on(
    tracker: Tracker, client: MlflowClient, uri: str, folder: Path
) -> None:
    assert tracker.aliases("moved") == tracker.versions("moved") == {}
    client.create_registered_model("moved")
    for _ in range(2):
        client.create_model_version("moved", (folder / "model").as_uri(), tags={"llama2.source": "here"})
    tracker.move("moved", {"champion": "1", "candidate": "2"})
    assert tracker.aliases("moved") == {"champion": "1", "candidate": "2"}
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-c", MOVER, uri, str(folder / "files")]
    assert subprocess.run(command, cwd=ROOT, env=environment).returncode == -signal.SIGKILL
    cut = client.get_registered_model("moved").aliases
    assert {a: str(v) for a, v in cut.items()} == {"champion": "1", "candidate": "2", "previous": "1"}
    assert tracker.aliases("moved") == {"champion": "2", "previous": "1"}
    tracker.tag_version("moved", "2", {"llama2.decision": "promoted"})
    assert tracker.versions("moved")["2"] == {"llama2.source": "here", "llama2.decision": "promoted"}


def test_a_long_curve_arrives_whole(tracker: Tracker, client: MlflowClient) -> None:
    run = tracker.start("curve", "curve", {})
    tracker.log_points(run, points([{"step": step, "loss": step / 2} for step in range(2500)]))
    logged = client.get_metric_history(run, "loss")
    assert sorted((point.step, point.value) for point in logged) == [(step, step / 2) for step in range(2500)]


def test_only_finite_numbers_are_points(tracker: Tracker, client: MlflowClient) -> None:
    run = tracker.start("points", "points", {})
    rows = [{"step": 1, "loss": float("nan"), "kl": float("inf"), "note": "text", "train/loss@8": 2}]
    tracker.log_points(run, points(rows))
    tracker.log_metrics(run, {"final": 0.5})
    assert client.get_run(run).data.metrics == {"train/loss_8": 2.0, "final": 0.5}


def test_params_are_flat_short_and_logged_once(tracker: Tracker, client: MlflowClient) -> None:
    run = tracker.start("params", "params", {})
    params = {"optimizer": {"beta2": 0.95}, "text": "x" * 7000, **{f"p{n}": n for n in range(120)}}
    tracker.log_params(run, params)
    tracker.log_params(run, {**params, "optimizer": {"beta2": 0.99}})
    logged = client.get_run(run).data.params
    assert logged["optimizer.beta2"] == "0.95"
    assert len(logged["text"]) == 6000
    assert len(logged) == 122


def test_files_tags_and_the_page_of_a_run(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    run = tracker.start("files", "files", {})
    (tmp_path / "manifest.json").write_text("{}")
    tracker.log_file(run, tmp_path / "manifest.json", "artifact")
    assert [file.path for file in client.list_artifacts(run, "artifact")] == ["artifact/manifest.json"]
    tracker.set_tags(run, {"llama2.digest": "abc"})
    assert client.get_run(run).data.tags["llama2.digest"] == "abc"
    assert tracker.run_path(run).endswith(f"/experiments/{tracker.experiment_id}/runs/{run}")


def test_names_and_nesting() -> None:
    assert metric_name("reward/mean@4 (%)") == "reward/mean_4 ___"
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": {}}) == [
        ("a.b", "1"),
        ("a.c.d", "None"),
        ("e", "{}"),
    ]


def test_what_a_run_is_made_from_and_made(tracker: Tracker, client: MlflowClient, tmp_path: Path) -> None:
    run, digest = tracker.start("base", "key", {}), "5e" * 32
    tracker.log_input(run, "tokens", "tokens/aabb", "ab" * 32, tmp_path, {"tokens": 7})
    for _ in range(2):  # a run that goes on says it again
        tracker.log_model(run, "base, 1% of 'all'", "base", digest, tmp_path / digest)
    found = client.get_run(run)
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("tokens/aabb", "ab" * 18)
    assert given.dataset.profile == '{"tokens": 7}' and given.tags[0].value == "tokens"
    (made,) = found.outputs.model_outputs
    model = client.get_logged_model(made.model_id)
    assert (model.name, model.model_type, model.status) == ("base, 1_ of _all_", "base", "READY")
    assert model.tags["llama2.digest"] == digest


def test_a_version_links_to_the_model_that_a_run_made(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    source = tmp_path / ("c4" * 32)
    source.mkdir()
    (source / "weights").write_text("w")
    code = tmp_path / "code.py"
    code.write_text(
        "from mlflow.models import set_model\nfrom mlflow.pyfunc import PythonModel\n"
        "class M(PythonModel):\n    def predict(self, model_input: list[str]):\n        return model_input\n"
        "set_model(M())\n"
    )
    tracker.log_model(tracker.start("chat", "key", {}), "chat model", "chat", source.name, source)
    version = tracker.register("linked", code, source, {"llama2.source": str(source)})
    assert tracker.register("linked", code, source, {"llama2.source": "elsewhere"}) == "2"
    (model,) = client.search_logged_models([tracker.experiment_id], "name = 'chat model'")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "linked", "version": version}]


def test_the_same_points_again_change_nothing(tracker: Tracker, client: MlflowClient) -> None:
    run, curve = tracker.start("twice", "twice", {}), points([{"step": 3, "loss": 0.5}])
    tracker.log_points(run, curve)
    tracker.log_points(run, curve)
    assert len(client.get_metric_history(run, "loss")) == 1


def test_views_are_there_and_a_user_s_own_stay(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    curves = "mlflow.sharedViewState.llama2-curves"
    view = json.loads(client.get_experiment(tracker.experiment_id).tags[curves])
    state = json.loads(view["state"])
    assert view["name"] == "training curves" and len(json.dumps(view)) < 20_000  # the UI's own limit
    assert [
        run.info.run_name for run in client.search_runs([tracker.experiment_id], state["searchFilter"])
    ] == []
    trained = tracker.start("trained", "trained", {})
    tracker.log_metrics(trained, {"gradient_norm": 2.0, "loss": 1.0})
    (found,) = client.search_runs([tracker.experiment_id], state["searchFilter"])
    assert found.info.run_id == trained
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    client.set_experiment_tag(tracker.experiment_id, curves, "changed")
    again = Tracker(tracker.uri, client.get_experiment(tracker.experiment_id).name, tmp_path)
    assert client.get_experiment(again.experiment_id).tags[curves] == "changed"
