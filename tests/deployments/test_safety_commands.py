"""`llama2 safety`: what is missing or wrong is said before anything starts."""

from pathlib import Path

import pytest

from deployments.profiles import SafetyProfile, changed
from llama2_core.errors import ConfigError
from storage.artifacts import Store, digest_of
from storage.errors import ArtifactNotFound
from tasks.stage_models import full_name


def reward_model(store: Store, domain: str, seed: int) -> str:
    digest = digest_of("reward", 1, {"domain": domain, "seed": seed}, {})
    with store.building("reward", digest) as directory:
        (directory / "weights").touch()
        store.commit(
            "reward",
            digest,
            version=1,
            recipe={"domain": domain},
            parents={},
            summary={},
            wall_seconds=0,
            cpu_seconds=0,
            peak_memory_bytes=0,
        )
    return f"reward/{digest}"


def test_the_newest_reward_model_of_the_domain_judges_unless_one_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = (reward_model(store, "safety", seed) for seed in (1, 2))
    reward_model(store, "helpfulness", 3)
    assert full_name("safety", store) == new
    assert full_name(old[:15], store) == old
    with pytest.raises(ArtifactNotFound, match="There is no helpfulness reward model"):
        full_name("helpfulness", Store(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scaling.shares=[1, 0.1]", "each larger than the one before"),
        ("distillation.preprompts.tailored=Decline.", r"must hold \{category\}"),
        ("distilation.prompts=3", "distilation: Extra inputs"),
    ],
)
def test_mistakes_name_the_field(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(SafetyProfile, {}, [change], "llama2 safety")
