"""Retraining on a schedule: a real Prefect server, a real worker, a schedule of a minute, comparisons that arrive."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from storage.artifacts import Store
from storage.preference_events import BatchOpened, Response, Turn
from storage.preference_log import PreferenceLog
from storage.preferences import preferences_folder
from storage.schemas import COMPARISONS, read_table
from tasks.tables import dialog_from_json
from tests.stack import COMMAND, ROOT, Stack, run, wait_for
from tests.storage.test_preference_log import NOW, compared

pytestmark = pytest.mark.drill

# The deployment of retraining, on the ci profile, every minute.
DEPLOY = """
import json, sys
from deployments.deploy import deploy, read_deployments
from deployments.pools import read_pool
from deployments.profiles import RetrainProfile, load_profile
found = read_deployments()
profile = load_profile("retrain/ci", sys.argv[2:], RetrainProfile)
schedule = {"slug": "minute", "interval": 60}
entries = [
    entry.model_copy(update={"profile": "retrain/ci", "schedules": [schedule],
        "parameters": {"recipe": profile.recipe.model_dump(mode="json")}})
    for entry in found.deployments if entry.entrypoint == "flows.retrain.retrain"
]
wanted = found.model_copy(update={"deployments": entries})
deploy(wanted, read_pool("process", "llama2"), 2, {"home": sys.argv[1], "threads": 1}, "", print)
"""


class Scheduled(Stack):
    """A stack with the deployment of retraining, and what its flow runs say."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home / "artifacts")
        self.seen: set[tuple[str, str]] = set()
        super().__init__(home)

    def deploy(self, *changes: str) -> None:
        """Deploy again, and wait for the runs that were sent out before: they have what was set before."""
        self.python(DEPLOY, self.home, *changes)
        now, at_work = datetime.now(UTC), ("Pending", "Running")
        wait_for(lambda: not any(m.state_name in at_work and m.created < now for m in self.runs()), 900)
        self.forget()

    def fire(self) -> None:
        """Begin a run now, as another schedule that fires at the same time would."""
        with self.client() as client:
            client.create_flow_run_from_deployment(client.read_deployment_by_name("retrain/weekly").id)

    def forget(self) -> None:
        """Look at no run again as it is now."""
        self.seen |= {(str(made.id), str(made.state_name)) for made in self.runs()}

    def llama2(self, *words: str) -> str:
        command = [*COMMAND, *words, "--home", str(self.home)]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def champion(self) -> dict[str, str]:
        """Return alias -> version."""
        return {a: v["number"] for a, v in json.loads(self.llama2("champion", "--json")).items()}

    def runs(self) -> list[FlowRun]:
        with self.client() as client:
            return client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])), limit=200
            )

    def restart(self) -> None:
        super().restart()
        self.forget()  # a run that was at work has crashed

    def resume(self, made: FlowRun, **given: Any) -> None:
        """Fill in the form of a suspended flow run, as the UI does."""
        with temporary_settings({PREFECT_API_URL: self.api}):
            resume_flow_run(made.id, run_input=given)

    def next(self, state: str, said: str = "") -> FlowRun:
        """Wait for a flow run that was not returned before, in a state, that says something."""
        found: list[FlowRun] = []

        def look() -> bool:
            new = [made for made in self.runs() if (str(made.id), str(made.state_name)) not in self.seen]
            assert not [made.state for made in new if made.state_name in ("Failed", "Crashed")]
            for made in new:
                if made.state_name == state and said in str(made.state and made.state.message):
                    found.append(made)
            return bool(found)

        wait_for(look, 900)
        self.seen |= {(str(made.id), state) for made in found}
        return found[0]

    def people(self, batch: str) -> None:
        """Freeze a batch of what the simulated annotator has said before, and tell the server."""
        people_compare(self.store, batch)
        self.llama2("preferences", "freeze", batch)


def people_compare(store: Store, batch: str) -> None:
    """Log a batch of what the simulated annotator has said before."""
    rows = read_table(store.resolve("comparisons").file("comparisons.parquet"), COMPARISONS)
    rows = [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]
    with PreferenceLog(preferences_folder(store)) as log:
        log.append(BatchOpened(id=batch, target=80, time=NOW))
        for number, row in enumerate(rows[:80]):
            name = f"{batch}-{number}"
            answers = (
                Response(text=row["chosen"], safe=row["chosen_safe"]),
                Response(text=row["rejected"], safe=row["rejected_safe"]),
            )
            about = {"kind": row["kind"], "grade": row["grade"], "responses": answers}
            dialog = tuple(Turn(role=m.role, content=m.content) for m in dialog_from_json(row["dialog"]))
            domain = "safety" if row["safety"] else "helpfulness"
            log.append(
                compared(
                    name,
                    batch=batch,
                    question=name,
                    prompt_id=name,
                    dialog=dialog,
                    domain=domain,
                    **about,
                )
            )


@pytest.fixture
def scheduled(tmp_path: Path) -> Iterator[Scheduled]:
    home = tmp_path / "var"
    run([*COMMAND, "run", "--profile", "ci", "--set", f"runtime.home={home}", "--set", "runtime.threads=1"])
    made = Scheduled(home)
    yield made
    made.down()


BETTER = ("recipe.gate.least_win_rate=0.5", "recipe.gate.least_sure_win_rate=0.4")
WORSE = (
    "recipe.rejection_fine_tune.optimizer.peak_learning_rate=1e-6",  # a base model that was hardly fine-tuned
    "recipe.ppo_from=9",
    "recipe.gate.least_win_rate=0.6",
)


@pytest.mark.timeout(3600)
def test_a_schedule_of_a_minute_retrains_when_there_is_something_new(scheduled: Scheduled) -> None:
    scheduled.deploy(*BETTER)
    scheduled.next("Completed", "Nothing new since the champion")
    assert scheduled.champion() == {"champion": "1"}

    scheduled.people("week-1")
    scheduled.fire()
    scheduled.fire()
    scheduled.next("Completed", "has been retraining since")
    made = scheduled.next("Completed", "Version 2, ")
    assert made.name == "retraining of the champion, seed 0"
    assert scheduled.champion() == {"champion": "2", "previous": "1"}
    scheduled.next("Completed", "Nothing new since the champion")
    assert "What is new" in (scheduled.home / "report" / "retrain.html").read_text()

    scheduled.deploy(*BETTER, *WORSE)
    scheduled.people("week-2")
    scheduled.next("Completed", "The champion stays. V3 rejection over champion")
    assert scheduled.champion() == {"champion": "2", "previous": "1"}

    assert "Version 1 (" in scheduled.llama2("rollback")
    assert scheduled.champion() == {"champion": "1", "previous": "2"}
    scheduled.deploy("recipe.approval=true")
    scheduled.people("week-3")
    asked = scheduled.next("Suspended")
    scheduled.next("Completed", f"resume flow run {asked.name!r}")
    assert scheduled.champion()["candidate"] == "3"
    scheduled.restart()
    scheduled.resume(asked, approve=True, reason="read twenty answers")
    done = scheduled.next("Completed", "read twenty answers (by a person)")
    assert done.id == asked.id
    assert scheduled.champion() == {"champion": "3", "previous": "1"}
