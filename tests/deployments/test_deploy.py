"""What `llama2 deploy` puts on a server: a form for every flow, pools, automations. Without a server."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.webhook import Webhook
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.schema_tools import is_valid_schema, validate
from prefect.utilities.schema_tools.validation import ValidationError
from sqlalchemy import make_url

import flows
from deployments.deploy import FAILURES, Entry, defaults_of, read_deployments, schema_of, webhook_block
from deployments.pools import FOLDER, Pool, read_pool
from llama2_core.errors import ConfigError

DEPLOYMENTS = read_deployments()
ENTRIES = {f"{entry.entrypoint} {entry.name}": entry for entry in DEPLOYMENTS.deployments}
HOME = Path("/data/llama2")
OWN: dict[str, dict[str, Any]] = {
    "finetune": {"model": "mine"},
    "adapt": {"model": "mine", "dialogs": "mine"},
    "freeze": {"batch": "mine"},
    "safety prompts": {"files": ["mine"]},
}
"""Parameters that only the user can know."""


def test_every_flow_has_a_deployment() -> None:
    found = set()
    for path in Path(flows.__path__[0]).glob("*.py"):
        module = importlib.import_module(f"flows.{path.stem}")
        own = (name for name, value in vars(module).items() if isinstance(value, Flow))
        found |= {
            f"{module.__name__}.{n}" for n in own if getattr(module, n).fn.__module__ == module.__name__
        }
    assert found == {entry.entrypoint for entry in ENTRIES.values()}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_a_form_says_everything_and_its_defaults_are_accepted(entry: Entry) -> None:
    schema = schema_of(entry, DEPLOYMENTS.descriptions)
    groups = {"parameters": schema, **schema["definitions"]}
    for group, fields in groups.items():
        for name, field in fields.get("properties", {}).items():
            assert field.get("description"), f"{group}.{name}"
    values = defaults_of(entry, {"home": HOME})
    assert set(schema["properties"]) - set(values) == OWN.get(entry.name, {}).keys()
    assert values["runtime"]["home"] == str(HOME)
    is_valid_schema(schema, preprocess=True)
    validate(
        {**values, **OWN.get(entry.name, {})},
        schema,
        raise_on_error=True,
        preprocess=True,
        allow_none_with_default=True,
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recipe.rounds", 0, "less than or equal to the minimum of 0"),
        ("recipe.carry_over", "none", "not one of"),
        ("recipe.rejection.samples", "many", "'many' is not valid"),
        ("recipe.round", 3, "Additional properties"),
    ],
)
def test_a_bad_value_is_refused_before_there_is_a_run(path: str, value: Any, message: str) -> None:
    entry = next(entry for entry in ENTRIES.values() if entry.name == "rounds")
    values = parent = defaults_of(entry, {})
    *groups, name = path.split(".")
    for group in groups:
        parent = parent[group]
    parent[name] = value
    with pytest.raises(ValidationError, match=message):
        schema = schema_of(entry, DEPLOYMENTS.descriptions)
        validate(values, schema, raise_on_error=True, preprocess=True, allow_none_with_default=True)


def test_profiles_are_the_defaults() -> None:
    defaults = {entry.name: defaults_of(entry, {}) for entry in ENTRIES.values() if entry.profile}
    assert defaults["ci"]["recipe"]["pretrain"]["loop"]["steps"] == 60
    assert defaults["rounds"]["recipe"]["comparisons"]["prompts"] == 3200


def test_automations_are_prefects() -> None:
    found = {values["name"]: values for values in DEPLOYMENTS.automations}
    zombies = AutomationCore.model_validate(found["zombies"]).trigger
    assert {"prefect.flow-run.Suspended", "prefect.flow-run.Completed"} <= zombies.expect  # type: ignore
    (action,) = found["next round"]["actions"]
    flow, _, name = action["deployment"].partition("/")
    assert (flow, name) in {(entry.flow().name, entry.name) for entry in ENTRIES.values()}


@pytest.mark.parametrize("type", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_a_pools_template_names_variables_that_there_are(type: str) -> None:
    pool = read_pool(type, "mine")
    pytest.importorskip(pool.package.replace("-", "_"), reason=f"{pool.package} is not installed")
    template = pool.base_job_template()
    variables = template["variables"]["properties"]
    assert all(variables[name]["default"] == value for name, value in pool.defaults.items())
    assert set(pool.job_variables) <= set(variables)


def test_a_pool_says_what_it_misses() -> None:
    with pytest.raises(
        ConfigError, match=r"no work pool of type 'lambda'; there are docker, kubernetes, process"
    ):
        read_pool("lambda", "mine")
    with pytest.raises(ConfigError, match="image is no job variable"):
        Pool(defaults={"image": "mine"}).base_job_template()
    with pytest.raises(ConfigError, match=r'pip install "llama2-pipeline\[batch\]"'):
        Pool(type="batch", package="prefect-batch").base_job_template()


@pytest.mark.slow
def test_the_webhooks_address_is_encrypted_at_rest() -> None:
    address = "https://hooks.example/a-secret-token-of-the-webhook"
    with prefect_test_harness(server_startup_timeout=180):
        assert webhook_block(address) == webhook_block("")
        assert Webhook.load(FAILURES).url.get_secret_value() == address  # pyright: ignore[reportAttributeAccessIssue]
        database = Path(make_url(str(PREFECT_API_DATABASE_CONNECTION_URL.value())).database or "")
        files = list(database.parent.glob(f"{database.name}*"))
        assert files and not any(b"a-secret-token" in path.read_bytes() for path in files)
