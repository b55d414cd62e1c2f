"""The annotation service on two small models, without a browser."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from deployments.services.annotation.access import Access
from deployments.services.annotation.app import create_app
from deployments.services.annotation.desk import Desk
from deployments.services.annotation.seat import Queued, Variant
from deployments.services.speakers import Speakers
from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.preference_events import BatchOpened, Turn
from storage.preference_log import PreferenceLog

MODELS = ("newest", "other")


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Speakers]:
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, max_seq_len=128
    )
    for seed, name in enumerate(MODELS):
        model = Transformer(config)
        initialise(model, config, torch.Generator().manual_seed(seed))
        save_model(folder / name, model, tokenizer)
    made = Speakers({name: str(folder / name) for name in MODELS})
    yield made
    made.close()


@pytest.fixture
def make_desk(speakers: Speakers, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Open the log and return a desk on it; called again, it is as after a restart."""
    logs: list[PreferenceLog] = []

    def make(agreement_share: float = 0.0, **changes: Any) -> Desk:
        if logs:
            logs.pop().close()
        log = PreferenceLog(tmp_path / "preferences")
        logs.append(log)
        if not log.open_batch():
            log.append(BatchOpened(id="week-1", target=4, time=datetime.now(UTC)))
        domains = ("helpfulness", "safety", "helpfulness", "safety")
        queue = [
            Queued(f"q{n}", "queued", domain, (Turn(role="user", content=f"the cat sat on {n}"),))
            for n, domain in enumerate(domains)
        ]
        variants = (Variant("newest", 1.0), Variant("other", 0.8))
        sampling = SamplingConfig(max_new_tokens=12, top_p=1.0)
        values: dict[str, Any] = {
            "variants": variants,
            "speakers": speakers,
            "queue": queue,
            "sampling": sampling,
        }
        return Desk(log, "week-1", **values | changes, agreement_share=agreement_share)

    yield make
    for log in logs:
        log.close()


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(tmp_path / "preferences")


@pytest.fixture
def client(make_desk: Callable[..., Desk], access: Access) -> TestClient:
    """Return a browser in which Alice has signed in."""
    app = create_app(make_desk(), access, ["127.0.0.1"])
    browser = TestClient(app, base_url="http://127.0.0.1")
    browser.post("/sign-in", data={"token": access.add("alice")})
    return browser
