"""Job files for Slurm and Kubernetes: what they type exists, and their times leave ranks time to save."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deployments.cli import app
from deployments.profiles import FOLDER, Profile, changed
from tasks.runtime import Runtime
from tasks.workers import GRACE_SECONDS

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
SLURM, KUBERNETES = DEPLOYMENTS / "slurm" / "llama2.sbatch", DEPLOYMENTS / "kubernetes" / "llama2.yaml"


def objects() -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all(KUBERNETES.read_text())}


def pod() -> dict[str, Any]:
    return objects()["Job"]["spec"]["template"]["spec"]


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return found


def commands() -> list[list[str]]:
    """Return every `llama2` command of both files, as words."""
    scripts = [re.sub(r"^#.*\n", "", SLURM.read_text(), flags=re.M), *container()["args"]]
    lines = [re.sub(r"\\\n", " ", script) for script in scripts]
    typed = [shlex.split(line) for text in lines for line in re.findall(r"\bllama2 (?:run|join).*", text)]
    return [*typed, container()["livenessProbe"]["exec"]["command"]]


def test_every_command_and_option_exists() -> None:
    known = typer.main.get_command(app).commands  # type: ignore
    assert [words[1] for words in commands()] == ["join", "run", "run", "join", "alive"]
    for _, name, *words in commands():
        options = {option for parameter in known[name].params for option in parameter.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= options, f"llama2 {name}"


def test_what_is_set_is_a_runtime() -> None:
    for _, name, *words in commands():
        if name == "run":
            pairs = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
            filled = [re.sub(r"\$SLURM_NNODES|\$processes", "2", pair) for pair in pairs]
            runtime = changed(Profile, {}, filled, "job file").runtime
            assert runtime.nodes == 2 and runtime.rendezvous.endswith(":29400")
    profiles = [*re.findall(r"--profile (\S+)", container()["args"][0]), "paper-7b"]
    assert all((FOLDER / f"{name}.yaml").is_file() for name in profiles)
    assert "profile=${1:-paper-7b}" in SLURM.read_text()


def test_the_batch_script_is_shell() -> None:
    checked = subprocess.run(["bash", "-n", str(SLURM)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_there_is_time_to_save() -> None:
    (warned,) = re.findall(r"--signal=B:TERM@(\d+)", SLURM.read_text())
    assert int(warned) > GRACE_SECONDS + 30
    assert pod()["terminationGracePeriodSeconds"] > GRACE_SECONDS + 15
    _, _, *words = container()["livenessProbe"]["exec"]["command"]
    assert float(words[words.index("--seconds") + 1]) > Runtime().silence_seconds


def test_pods_find_each_other_and_nobody_else_finds_them() -> None:
    found = objects()
    job, service = found["Job"], found["Service"]
    name, spec = job["metadata"]["name"], job["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert pod()["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == labels
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels and policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
    assert f"rendezvous={name}-0.{service['metadata']['name']}:" in container()["args"][0]
    assert spec["completionMode"] == "Indexed" and spec["successPolicy"]["rules"] == [
        {"succeededIndexes": "0"}
    ]
    assert f"runtime.nodes={spec['completions']} " in container()["args"][0]
    assert spec["parallelism"] == spec["completions"]
    assert pod()["restartPolicy"] == "Never"  # podFailurePolicy is refused with another
    claim = found["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod()["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("folder", ["--home /shared/llama2", "runtime.home=/shared/llama2"])
def test_pods_share_one_home(folder: str) -> None:
    assert folder in container()["args"][0]
    assert {"name": "shared", "mountPath": "/shared"} in container()["volumeMounts"]


def test_pods_have_no_privilege() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] and not pod()["automountServiceAccountToken"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod().keys()
    own = container()["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
