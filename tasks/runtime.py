"""What does not define a result: where it is stored, how it is run and watched."""

from pathlib import Path

from llama2_core.config import Natural, NaturalFloat, Positive, Record, Share


class Runtime(Record):
    """Where and how stages run; nothing here changes what they make."""

    home: Path = Path("var")
    """Folder of everything that runs write: artifacts, MLflow and Prefect databases, reports."""
    processes: Positive = 1
    """Training processes on this machine; more than one run under torchrun with FSDP2."""
    threads: Positive = 2
    """Threads of each process."""
    data_workers: Positive = 1
    """Processes that filter documents."""
    ray_address: str = ""
    """Ray cluster that filters documents: `local`, `auto`, host:6379 or ray://host:10001; empty, processes here."""
    slots: Positive = 128
    """Rows sampled at once."""
    log_every: Positive = 10
    """Updates between metric rows."""
    checkpoint_every: Positive = 200
    """Updates between training checkpoints."""
    too_long_share: Share = 0.1
    """Share of dialogs, comparisons or prompts that may be too long; with more, a stage does not start."""
    least_free_bytes: Natural = 1 << 30
    """Free disk space demanded before a run starts."""
    watts_per_core: NaturalFloat = 15.0
    """Assumed power of a busy core, for the energy estimate."""
    experiment: str = "llama2"
    """MLflow experiment."""
    mlflow_uri: str = ""
    """MLflow server or database; empty means the database below `home`."""
    mlflow_address: str = "http://127.0.0.1:5000"
    """Where MLflow's UI will be opened, for links."""
    parent_run: str = ""
    """MLflow run that stages become children of."""

    @property
    def store_root(self) -> Path:
        return self.home / "artifacts"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{(self.home / 'mlflow.db').absolute()}"
