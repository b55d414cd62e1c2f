"""Names of stages lead to their models: of the newest run that came to its gate."""

from pathlib import Path

import pytest

from storage.artifacts import Artifact, Store
from storage.errors import ArtifactNotFound
from tasks.stage_models import full_name, model_artifact


def committed(store: Store, kind: str, number: int, parents: dict[str, str], **facts: str) -> Artifact:
    """Commit an empty artifact."""
    digest = f"{number:064x}"
    with store.building(kind, digest) as directory:
        (directory / "content").touch()
        return store.commit(
            kind,
            digest,
            version=1,
            recipe=facts,
            parents=parents,
            summary=facts,
            wall_seconds=0,
            cpu_seconds=0,
            peak_memory_bytes=0,
        )


def test_each_stage_has_its_model(tmp_path: Path) -> None:
    store = Store(tmp_path)
    talk = committed(store, "dialogs", 1, {}).full_name
    sft = committed(store, "chat", 2, {"dialogs": talk})
    assert model_artifact("sft", store).digest == sft.digest
    variant = committed(store, "chat", 3, {"dialogs": talk})
    assert model_artifact("sft", store).digest == variant.digest  # the newest, as long as nothing says which
    examined = committed(store, "evaluation", 4, {"model": sft.full_name, "dialogs": talk})
    committed(store, "verdict", 5, {"sft": examined.full_name}, champion="sft")
    assert model_artifact("sft", store).digest == model_artifact("", store).digest == sft.digest
    committed(store, "dialogs", 6, {})  # a reader's own, to be fine-tuned on
    assert full_name("dialogs", store) == talk


def test_a_whole_name_may_be_elsewhere_and_a_short_one_may_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    elsewhere = f"chat/{9:064x}"
    assert full_name(elsewhere, store) == elsewhere
    with pytest.raises(ArtifactNotFound):
        full_name("chat/0000", store)
