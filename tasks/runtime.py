"""What does not define a result: where it is stored, how it is run and watched."""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from llama2_core.config import MeshConfig, Natural, NaturalFloat, Positive, PositiveFloat, Record, Share
from llama2_core.planning import KG_CO2_PER_KWH, Cluster


class Execution(Record):
    """How a worker runs a stage; nothing here changes what it learns, but for rounding."""

    threads: Positive = 2
    """Threads of each process."""
    slots: Positive = 128
    """Rows sampled at once."""
    server_requests: Positive = 32
    """Answers asked for at once where a server samples."""
    server_seconds: PositiveFloat = 300.0
    """A server that has not given an answer for so long is asked again."""
    micro_rows: Positive = 64
    """Most rows (or pairs) of one process in a training forward pass; the rest is accumulated."""
    mesh: MeshConfig = MeshConfig()
    """How training processes share a model."""
    activation_checkpointing: bool = False
    """Keep only each block's input and run it again on the way back: less memory, a third more arithmetic."""
    compile: bool = False
    """Compile the blocks with torch.compile; needs a C++ compiler on a CPU."""
    log_every: Positive = 10
    """Updates between metric rows."""
    validate_every: Positive = 200
    """Updates between losses on held-out rows."""
    checkpoint_every: Positive = 200
    """Updates between training checkpoints."""
    kept_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest training checkpoints to keep."""
    silence_seconds: PositiveFloat = 600.0
    """A training process that makes no step for so long is ended, with its stacks in a file."""


def without_secret(url: str) -> str:
    """Return a URL that may be logged. Raises an error of the type "secret", whose input must not be shown."""
    authority = urlsplit(url).netloc
    if ":" in authority.rpartition("@")[0] or re.search(
        r"[?&](password|secret|token|key)=", url, re.IGNORECASE
    ):
        raise PydanticCustomError(
            "secret",
            "a password in a URL would be logged: give it by the environment instead, such as AWS_* or PGPASSWORD",
        )
    return url


def address_of(rendezvous: str) -> tuple[str, int]:
    """Return host and port of "host:port". Raises ValueError."""
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"rendezvous is {rendezvous!r}: several machines need the host and port of this one, such as node-0:29400"
        )
    return host.strip("[]"), int(port)


Url = Annotated[str, AfterValidator(without_secret)]


class Runtime(Execution):
    """Where and how stages run; nothing here changes what they make."""

    home: Path = Path("var")
    """Folder of everything that runs write: artifacts, MLflow and Prefect databases, reports."""
    remote_store: Url = ""
    """Where artifacts and checkpoints are kept for other machines too, such as s3://bucket/folder; empty, nowhere."""
    processes: Positive = 1
    """Training processes on each machine; more than one run under torchrun."""
    nodes: Positive = 1
    """Machines that train together; on all but this one `llama2 join` runs."""
    rendezvous: str = ""
    """Where they meet: this machine's host:port, as the others know it."""
    data_workers: Positive = 1
    """Processes that filter documents."""
    ray_address: str = ""
    """Ray cluster that filters documents: `local`, `auto`, host:6379 or ray://host:10001; empty, processes here."""
    too_long_share: Share = 0.1
    """Share of dialogs, comparisons or prompts that may be too long; with more, a stage does not start."""
    cluster: Cluster | None = None
    """What a run is planned for; this machine, measured, when left out."""
    start_what_does_not_fit: bool = False
    """Start a run although its plan, which says the most that it takes, is larger than the memory."""
    least_free_bytes: Natural = 1 << 30
    """Free disk space demanded before a run starts."""
    watts_per_core: NaturalFloat = 15.0
    """Assumed power of a busy core, where it cannot be measured."""
    watts_per_accelerator: NaturalFloat = 400.0
    """The same of an accelerator: its TDP (Llama 2 Table 2's A100)."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power of the whole data centre, as a multiple of its machines'."""
    kg_co2_per_kwh: NaturalFloat = KG_CO2_PER_KWH
    """Of the electricity; the default is that of Llama 2 Table 2."""
    experiment: str = "llama2"
    """MLflow experiment."""
    mlflow_uri: Url = ""
    """MLflow server or database; empty means the database below `home`."""
    mlflow_address: str = "http://127.0.0.1:5000"
    """Where MLflow's UI will be opened, for links."""
    parent_run: str = ""
    """MLflow run that stages become children of."""

    @model_validator(mode="after")
    def _meets_somewhere(self) -> Self:
        if self.nodes > 1 or self.rendezvous:
            address_of(self.rendezvous)
        return self

    @property
    def store_root(self) -> Path:
        return self.home / "artifacts"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{(self.home / 'mlflow.db').absolute()}"
