"""Deployments of all flows: read from prefect.yaml, their forms made from the flows' types, put on a Prefect server.

Done again, everything is brought up to date, and nothing is there twice.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import yaml
from prefect import Flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import Field, SecretStr, TypeAdapter

from deployments.pools import Pool
from deployments.profiles import Profile, RetrainProfile, RoundsProfile, load_profile
from llama2_core.config import Record
from llama2_core.errors import ConfigError
from tasks.rounds_recipe import RetrainRecipe, RoundsRecipe
from tasks.runtime import Runtime

FILE = Path(__file__).parent / "prefect.yaml"
FAILURES = "llama2-failures"
"""The block that holds the webhook's address."""
Say = Callable[[str], None]


class Entry(Record):
    """One deployment."""

    name: str
    """Beside the flow's, in the UI and for `prefect deployment run`."""
    entrypoint: str
    """Module path of the flow."""
    profile: str = ""
    """A file of deployments/profiles that recipe and runtime come from."""
    parameters: dict[str, Any] = Field(default={})
    """Other defaults than the flow's."""
    descriptions: dict[str, str] = Field(default={})
    """Other words than the common ones on a parameter."""
    tags: list[str] = Field(default=[])
    """To find it by in the UI."""
    schedules: list[dict[str, Any]] = Field(default=[])
    """When it runs by itself."""

    def flow(self) -> Flow[Any, Any]:
        module, _, name = self.entrypoint.rpartition(".")
        return getattr(importlib.import_module(module), name)


class Deployments(Record):
    """All of prefect.yaml."""

    deployments: list[Entry]
    """A deployment a flow."""
    descriptions: dict[str, str]
    """Of parameters that are no records, by name."""
    automations: list[dict[str, Any]]
    """Prefect's, but for names in place of ids."""


def read_deployments(path: Path = FILE) -> Deployments:
    return Deployments.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def schema_of(entry: Entry, common: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema of a deployment's form; records describe themselves, other parameters `common`."""
    schema = parameter_schema(entry.flow().fn).model_dump(exclude_unset=True)
    records, words = schema["definitions"], {**common, **entry.descriptions}
    for group in (schema, *records.values()):
        for name, field in group.get("properties", {}).items():
            if "description" not in field:  # pydantic leaves out what the record says of itself
                record = records.get(field.get("$ref", "").rpartition("/")[2], {})
                field["description"] = record.get("description") or words[name]
    return schema


def defaults_of(entry: Entry, runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter's default: the flow's, a profile's or the entry's; `runtime` has the last word."""
    parameters = inspect.signature(entry.flow().fn, eval_str=True).parameters
    values = {name: parameter.default for name, parameter in parameters.items()}
    if entry.profile:
        kinds = {RoundsRecipe: RoundsProfile, RetrainRecipe: RetrainProfile}
        profile = load_profile(entry.profile, [], kinds.get(type(values["recipe"]), Profile))
        values |= {"recipe": profile.recipe, "runtime": profile.runtime}
    values["runtime"] = Runtime.model_validate({**values["runtime"].model_dump(), **runtime})
    values |= entry.parameters
    return {
        name: _as_json(parameters[name].annotation, value)
        for name, value in values.items()
        if value is not inspect.Parameter.empty
    }


def deploy(
    found: Deployments, pool: Pool, at_once: int, runtime: Mapping[str, Any], webhook: str, say: Say
) -> None:
    """Bring pool, deployments and automations of a server up to date. Raises ConfigError where none answers."""
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise ConfigError(f"Prefect's server at {client.api_url} does not answer ({error})")
        say(f"Work pool {pool.name} ({pool.type}): {at_once} flow run{'s' * (at_once > 1)} at once.")
        _put_pool(client, pool, at_once)
        for entry in found.deployments:
            flow = entry.flow()
            client.create_deployment(
                flow_id=client.create_flow(flow),
                name=entry.name,
                entrypoint=entry.entrypoint,
                description=flow.description,
                tags=["llama2", *entry.tags],
                parameters=defaults_of(entry, {**runtime, **pool.runtime}),
                parameter_openapi_schema=schema_of(entry, found.descriptions),
                enforce_parameter_schema=True,
                schedules=[_schedule(schedule) for schedule in entry.schedules],
                work_pool_name=pool.name,
                job_variables=pool.job_variables,
                pull_steps=[],
            )
            say(f"  {flow.name}/{entry.name}")
        _put_automations(client, found.automations, webhook, say)


def _as_json(annotation: Any, value: Any) -> Any:
    """Return a value as the form holds it, once it is found to be of the parameter's type."""
    kind = TypeAdapter(annotation)
    return kind.dump_python(kind.validate_python(value), mode="json")


def _schedule(values: Mapping[str, Any]) -> DeploymentScheduleCreate:
    zone = values.get("timezone", "UTC")
    if "interval" in values:
        rule = IntervalSchedule(interval=values["interval"], timezone=zone)
    else:
        rule = CronSchedule(cron=values["cron"], timezone=zone)
    return DeploymentScheduleCreate(schedule=rule, active=values.get("active", True), slug=values["slug"])


def _put_pool(client: SyncPrefectClient, pool: Pool, at_once: int) -> None:
    template = pool.base_job_template()
    try:
        there = client.read_work_pool(pool.name)
    except ObjectNotFound:
        made = WorkPoolCreate(
            name=pool.name, type=pool.type, base_job_template=template, concurrency_limit=at_once
        )
        client.create_work_pool(made)
        return
    if there.type != pool.type:
        raise ConfigError(
            f"work pool {pool.name} is of type {there.type}: choose another name for one of {pool.type}"
        )
    client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template, concurrency_limit=at_once))


def _put_automations(client: SyncPrefectClient, wanted: list[dict[str, Any]], webhook: str, say: Say) -> None:
    block = webhook_block(webhook)
    for values in wanted:
        there = client.read_automations_by_name(values["name"])
        actions = [made for action in values["actions"] if (made := _action(client, action, block))]
        for automation in there:
            client.delete_automation(automation.id)
        if actions:
            client.create_automation(AutomationCore.model_validate({**values, "actions": actions}))
        say(f"Automation {values['name']}: {values['description'] if actions else 'not wanted here'}")


def _action(client: SyncPrefectClient, action: dict[str, Any], block: UUID | None) -> dict[str, Any] | None:
    """Return an action with ids in place of names; nothing when what it names is not there."""
    match action["type"]:
        case "run-deployment":
            name = action["deployment"]
            try:
                deployment_id = client.read_deployment_by_name(name).id
            except ObjectNotFound:
                return None
            return {**action, "deployment_id": deployment_id}
        case "call-webhook":
            return {**action, "block_document_id": block} if block else None
        case _:
            return action


def webhook_block(address: str) -> UUID | None:
    """Return the block of the webhook, made or changed where an address is given, else the one that is there."""
    if address:
        made = Webhook(method="POST", url=SecretStr(address), allow_private_urls=True)
        return cast(UUID, made.save(FAILURES, overwrite=True))
    try:
        return cast(Webhook, Webhook.load(FAILURES))._block_document_id
    except ValueError:
        return None
