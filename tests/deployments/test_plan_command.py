"""`llama2 plan`: every profile and cluster of ours, what does not fit, and mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments import plan_command
from deployments.cli import main
from deployments.plan_command import CLUSTERS, load_cluster
from deployments.profiles import FOLDER, load_profile
from llama2_core.errors import ConfigError
from llama2_core.presets import PRESETS
from tasks.machine import this_machine
from tasks.planner import plans

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]
PAPER = {  # peak rate, A100-hours: Llama 2 Tables 1 and 2
    "7B": (3e-4, 184_320),
    "13B": (3e-4, 368_640),
    "34B": (1.5e-4, 1_038_336),
    "70B": (1.5e-4, 1_720_320),
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `llama2 plan WORDS`; return its exit status, what it printed, and its error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llama2", "plan", *words])
        monkeypatch.setattr(plan_command.console, "width", 200)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, " ".join(said.err.split())

    return run


@pytest.mark.parametrize("cluster", sorted(path.stem for path in CLUSTERS.glob("*.yaml")))
@pytest.mark.parametrize("profile", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_profile_is_planned_on_every_cluster(profile: str, cluster: str) -> None:
    chosen = load_profile(profile, [])
    found = plans(chosen.recipe, chosen.runtime, load_cluster(cluster, None))
    assert len(found) == 12
    assert all(each.fits != bool(each.change) and each.hours > 0 for each in found)


@pytest.mark.parametrize("size", PAPER)
def test_paper_profiles_pretrain_as_the_paper(size: str) -> None:
    rate, hours = PAPER[size]
    recipe = load_profile(f"paper-{size.lower()}", []).recipe
    loop = recipe.pretrain.loop
    assert recipe.pretrain.model == PRESETS[size]
    assert recipe.tokens.row_tokens - 1 == 4096 and loop.rows * 4096 == 4 << 20
    assert loop.steps * loop.rows * 4096 == pytest.approx(2e12, rel=1e-6)
    assert (loop.optimizer.peak_learning_rate, loop.optimizer.warmup_steps) == (rate, 2000)
    runtime, cluster = load_profile("laptop", []).runtime, load_cluster("a100-80gb", 1024)
    assert plans(recipe, runtime, cluster)[0].accelerator_hours == pytest.approx(hours, rel=0.18)


@pytest.mark.parametrize(
    "words",
    [
        ("laptop",),
        ("gpu-24gb-110m", "--cluster", "rtx4090-24gb"),
        ("gpu-24gb-7b-lora", "--cluster", "rtx4090-24gb", "--stage", "sft"),
        ("gpu-80gb-1.1b", "--cluster", "h100-80gb", "--accelerators", "1"),
        ("paper-7b", "--cluster", "a100-80gb", "--accelerators", "1024", "--stage", "pretraining"),
        (
            "paper-70b",
            "--cluster",
            "a100-80gb",
            "--accelerators",
            "1024",
            "--stage",
            "pretr",
            "--set",
            "runtime.activation_checkpointing=true",
        ),
    ],
)
def test_what_fits_ends_well(planned: Command, words: tuple[str, ...]) -> None:
    status, said, error = planned(*words)
    assert (status, error) == (0, "")
    assert "Cost, at most" in said and "Memory of a rank, " in said


def test_what_does_not_fit_names_the_largest_consumer_and_the_smallest_change(planned: Command) -> None:
    words = ("paper-70b", "--cluster", "a100-80gb", "--accelerators", "1024", "--stage", "pretraining")
    status, said, error = planned(*words)
    assert status == 1 and "pretraining" in said
    assert error.startswith("error: pretraining does not fit: it takes 1")
    assert "of 80.00 GB, most of it activations (108.72 GB); smallest change: turn on checkpointing" in error


def test_all_that_does_not_fit_is_counted(planned: Command) -> None:
    status, _, error = planned("paper-7b", "--cluster", "rtx4090-24gb")
    assert status == 1
    assert error.startswith("error: ") and error.count("does not fit") == 1
    assert "more stages do not fit either" in error


def test_facts_for_programs(planned: Command) -> None:
    status, said, _ = planned("paper-7b", "--cluster", "a100-80gb", "--accelerators", "8", "--json")
    pretraining, *_, ppo = json.loads(said)
    assert status == 1
    assert pretraining["fits"] and pretraining["memory"]["moments"] == 6_738_415_616
    assert not ppo["fits"] and ppo["memory"]["largest"] == "activations"  # the weights are shared by eight
    assert pretraining["workload"]["setup"]["precision"] == "bfloat16"
    assert ppo["workload"]["setup"]["precision"] == "float32"


def test_this_machine_is_measured(planned: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what was measured is kept below var/
    status, said, error = planned("ci", "--cluster", "here", "--stage", "SFT")
    assert (status, error) == (0, "")
    assert "In float32: SFT, SFT variant" in said
    found = this_machine(load_profile("ci", []).runtime)
    assert found.memory_bytes > 1 << 30 and found.memory_bytes_per_second > 1e8
    assert found.peak_flops.float32 > 1e9


def test_a_cluster_of_ones_own(planned: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CLUSTERS / "laptop-2-cores.yaml").read_text().replace("8_000_000_000", "1_000"))
    status, _, error = planned("ci", "--cluster", str(path), "--stage", "SFT")
    assert status == 1 and "of 0.00 GB" in error and "take a smaller model" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", r"mine.yaml: expected fields such as memory_bytes"),
        ("memory_bytes: [", r"mine.yaml: not readable as YAML"),
        ("watts: 3", r"mine.yaml(.|\n)*watts: Extra inputs"),
    ],
)
def test_a_file_that_is_no_cluster(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_cluster(str(path), None)


def test_unknown_names_are_answered_with_the_known(planned: Command) -> None:
    assert "no such cluster; there are a100-80gb, h100-80gb" in planned("--cluster", "b200")[2]
    assert "no stage is called so; there are pretraining, SFT" in planned("--stage", "dpo")[2]


def test_planning_imports_neither_torch_nor_prefect() -> None:
    code = (
        "import sys, tasks.planner; from deployments.plan_command import load_cluster;"
        "load_cluster('a100-80gb', 8); sys.exit(bool({'torch', 'prefect', 'mlflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
