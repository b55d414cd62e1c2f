"""Compose files and manifests, as far as they can be checked without an engine: schemas, commands, ports, secrets."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema.validators import validator_for

from deployments.cli import app
from deployments.profiles import Profile, changed

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
DOCKER = DEPLOYMENTS / "docker"
FILES = [DOCKER / "compose.yaml", DOCKER / "compose.postgres.yaml"]


def services() -> dict[str, dict[str, Any]]:
    """Return the services of both files, the second's settings beside the first's."""
    first, second = (yaml.safe_load(path.read_text())["services"] for path in FILES)
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in first | second}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    try:
        package = distribution("check-jsonschema")
    except PackageNotFoundError:
        pytest.skip("needs check-jsonschema, which holds the schema of the compose specification")
    place = package.locate_file("check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(Path(str(place)).read_text())
    validator = validator_for(schema)(schema)
    loaded = yaml.safe_load(path.read_text())
    assert [error.message for error in validator.iter_errors(loaded)] == []
    loaded["services"]["prefect"]["portz"] = []
    assert not validator.is_valid(loaded)


@pytest.mark.parametrize(
    "path", sorted((DEPLOYMENTS / "kubernetes").glob("*.yaml")), ids=lambda path: path.name
)
def test_manifests_follow_the_schemas_of_kubernetes(path: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="holds the schemas of Kubernetes")
    for found in yaml.safe_load_all(path.read_text()):
        kubernetes.validate(found, "1.31", strict=True)
        found["spec"]["complections"] = 2
        with pytest.raises(kubernetes.ValidationError, match="complections"):
            kubernetes.validate(found, "1.31", strict=True)


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_batch_scripts_have_no_traps(path: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    checked = subprocess.run(["shellcheck", "--shell=bash", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_every_port_is_on_the_loopback_address() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 3 and all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_every_command_exists() -> None:
    known = typer.main.get_command(app).commands  # type: ignore
    ours = [
        service["command"] for service in services().values() if service.get("command", [""])[0] == "llama2"
    ]
    assert {words[1] for words in ours} == {"run", "annotate"}
    for _, name, *words in ours:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    (run,) = (words for words in ours if words[1] == "run")
    pairs = [run[at + 1] for at, word in enumerate(run) if word == "--set"]
    runtime = changed(Profile, {}, pairs, "compose.yaml").runtime
    assert runtime.mlflow_uri == "http://mlflow:5000" and str(runtime.home) == "/var/llama2"


@pytest.mark.slow
def test_servers_know_every_option() -> None:
    from mlflow.cli import server

    command = services()["mlflow"]["command"]
    known = {option for parameter in server.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in command if word.startswith("--")} <= known
    for name in ("prefect", "worker"):
        _, *words = services()[name]["command"]
        group = words[:2]
        shown = subprocess.run(
            [sys.executable, "-m", "prefect", *group, "--help"], capture_output=True, text=True
        )
        assert all(word in shown.stdout for word in words if word.startswith("--")), shown.stderr


def test_services_wait_for_what_is_well_and_keep_what_they_write() -> None:
    found = services()
    volumes = set().union(*(yaml.safe_load(path.read_text())["volumes"] for path in FILES))
    for name, service in found.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and "healthcheck" in found[other]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in volumes or (DOCKER / source).is_file()
        assert "no-new-privileges:true" in service["security_opt"], name


def test_no_secret_is_written_down() -> None:
    for name, service in services().items():
        for variable, value in service["environment"].items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                assert value is None or value.startswith("${POSTGRES_PASSWORD:?"), name
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value))


def test_the_image_copies_all_packages_and_no_more() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("COPY")]
    copied = [name for _, *names, _ in words for name in names]
    assert all((DEPLOYMENTS.parent / name).exists() for name in copied)
    packages = {path.parent.name for path in DEPLOYMENTS.parent.glob("*/__init__.py")} - {
        "tests",
        "benchmarks",
    }
    assert packages <= set(copied)
    assert "FROM python:3.11-slim" in lines and "USER llama2" in lines
