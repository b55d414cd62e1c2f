"""How far a stage is, as people read it, and as a real Prefect server keeps it."""

import logging
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness

from tasks.progress import described, progress

ROW = {"step": 1200, "of": 3000, "loss": 2.34567, "tokens_per_second": 14203.4}


def kept(kind: str) -> list[Any]:
    """Return the progress artifacts of a kind that the server has."""
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[kind])))


def test_a_line_says_what_is_known() -> None:
    assert described("sft", ROW) == "sft, step 1,200 of 3,000, loss 2.346, 14,203 tokens/s"
    assert described("sampling", {"step": 1, "of": 2}) == "sampling, step 1 of 2"
    assert described("ppo", {"step": 1, "of": 2, "reward": -0.5}) == "ppo, step 1 of 2, reward -0.5"
    assert described("sft", {}) == "sft"


@pytest.mark.slow
def test_prefect_keeps_one_artifact_a_stage_and_training_goes_on_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @flow
    def stage() -> None:
        with progress("sft, round 1", "chat") as shown:
            [begun] = kept("chat-progress")
            assert (begun.data, begun.description) == (0, "sft, round 1: starting")
            shown.show(ROW)
            shown.show({**ROW, "step": 1500})  # too soon to be told
            [at_work] = kept("chat-progress")
            assert (at_work.data, at_work.description) == (40, described("sft, round 1", ROW))
            shown.finish()
            [done] = kept("chat-progress")
            assert done.data == 100 and "step 1,500 of 3,000" in done.description
            with get_client(sync_client=True) as client:
                client.delete_artifact(done.id)
            shown.finish()

    with prefect_test_harness(server_startup_timeout=180):
        with progress("sft", "outside") as shown:
            shown.show(ROW)
            shown.finish()
        assert kept("outside-progress") == []
        with caplog.at_level(logging.WARNING):
            stage()
    assert "Prefect was not told how far sft, round 1 is" in caplog.text
