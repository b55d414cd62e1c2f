"""Training checkpoints: each process writes its shard beside the training, a marker comes last.

A snapshot is a folder step-N with one safetensors file a process (torch.distributed.checkpoint, so that any number of
processes can read it) and state.json: the step, what the caller knows, and the SHA-256 of every file.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama2_core.errors import CheckpointError, ConfigError
from llama2_core.training import distributed
from llama2_core.training.checkpoint import trained
from llama2_core.training.loop import TrainState

MARKER = "state.json"


class Snapshots:
    """The training checkpoints below one folder; all ranks make one and call the same methods."""

    def __init__(self, root: Path, kept: int = 2) -> None:
        """Keep the newest `kept`, two at least: the newest may be torn by a dying disk."""
        self.root, self._kept = root, max(2, kept)
        self._group: Any = dist.new_group(backend="gloo") if distributed.world_size() > 1 else None
        self._finisher = ThreadPoolExecutor(1)
        self._pending: tuple[int, Future[None]] | None = None

    def save(self, state: TrainState, facts: Mapping[str, Any]) -> None:
        """Copy the state and have it written; frozen weights are left out. Waits for the one before."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter  # noqa: PLC0415
        from torch.distributed.checkpoint.state_dict_saver import async_save  # noqa: PLC0415

        self.wait()
        partial = self.root / f".partial-{state.step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        alone = self._group is None
        written = async_save(_tensors(state), storage_writer=writer, process_group=self._group, no_dist=alone)
        assert isinstance(written, Future)
        told = {"step": state.step, "world_size": distributed.world_size(), **facts}
        self._pending = state.step, self._finisher.submit(self._finish, written, partial, told)

    def wait(self) -> None:
        """Wait until the last one is on disk. One that does not fit there is reported and given up."""
        if not self._pending:
            return
        step, finished = self._pending
        self._pending = None
        error = finished.exception()
        if error:  # torch wraps those of all ranks
            shutil.rmtree(self.root / f".partial-{step:08d}", ignore_errors=True)
            causes = [cause for cause, _ in getattr(error, "failures", {0: (error, None)}).values()]
            if not all(isinstance(cause, OSError) for cause in causes):
                raise error
            print(
                f"no checkpoint of step {step}: {causes[0]}. Training goes on; the one before is kept.",
                flush=True,
            )

    def _finish(self, written: Future, partial: Path, facts: dict[str, Any]) -> None:
        written.result()
        own = list(partial.glob(f"shard-{distributed.rank() + 1:05d}-*"))
        digests = _gathered({path.name: sha256(path) for path in own}, self._group)
        if distributed.rank() == 0:
            marker = partial / MARKER
            marker.write_text(json.dumps({**facts, "files": digests}, indent=2))
            final = self.root / f"step-{facts['step']:08d}"
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in self.paths()[: -self._kept]:
                shutil.rmtree(old)

    def paths(self) -> list[Path]:
        """Return the complete ones, oldest first."""
        return sorted(self.root.glob("step-*"))

    def newest(self) -> Path | None:
        """Return the newest that is whole, on every rank the same; others are named and passed over."""
        self.wait()
        found = ""
        if distributed.rank() == 0:
            for path in reversed(self.paths()):
                reason = damage(path)
                if not reason:
                    found = str(path)
                    break
                print(f"{reason}: an earlier checkpoint is used", flush=True)
        chosen = distributed.from_rank_zero(found)
        return Path(chosen) if chosen else None


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a snapshot's marker says."""
    return json.loads((path / MARKER).read_text())


def damage(path: Path) -> str:
    """Return what is wrong with a snapshot, naming the file; nothing when it is whole."""
    marker = path / MARKER
    try:
        files = json.loads(marker.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{marker} is missing or torn"
    for name, expected in files.items():
        if not (path / name).is_file():
            return f"{path / name} is missing"
        if sha256(path / name) != expected:
            return f"{path / name} is damaged (its SHA-256 is not the one in {MARKER})"
    return ""


def load(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a whole snapshot into the state; return what its marker says. All ranks must call.

    Raises CheckpointError for another model's, ConfigError for dropout on another number of processes.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader  # noqa: PLC0415
    from torch.distributed.checkpoint.state_dict_loader import load as read  # noqa: PLC0415

    facts = facts_of(path)
    same_world = facts["world_size"] == distributed.world_size()
    if not same_world and uses_dropout(state.model):
        raise ConfigError(
            f"{path} was written by {facts['world_size']} processes, here are {distributed.world_size()}: the random "
            "streams of dropout cannot be dealt anew. Use as many processes, or delete the folder to begin anew."
        )
    reader = HuggingFaceStorageReader(str(path))
    held = {name: tuple(tensor.size) for name, tensor in reader.read_metadata().state_dict_metadata.items()}  # type: ignore
    parameters = trained(state.model)
    wanted: dict[str, Tensor] = {f"model|{name}": p.detach() for name, p in parameters.items()}
    for name in wanted:
        if held.get(name) != tuple(wanted[name].shape):
            raise CheckpointError(
                f"{path}: {name[6:]} is {held.get(name)}, expected {tuple(wanted[name].shape)}"
            )
    for name, size in held.items():
        if name.startswith("optimizer|"):
            parameter = parameters[name.split("|")[1]]
            like = parameter.shape == size
            wanted[name] = torch.zeros_like(parameter) if like else torch.zeros(size, device=parameter.device)
    for name, random in _random_streams().items():
        if same_world and name in held:
            wanted[name] = random
    read(wanted, storage_reader=reader, no_dist=distributed.world_size() == 1)
    for name, tensor in wanted.items():
        if name.startswith("optimizer|"):
            _, parameter, key = name.split("|")
            state.optimizer.state[parameters[parameter]][key] = tensor
        elif name.startswith("random|"):
            torch.set_rng_state(tensor)
        elif name.startswith("random_cuda|"):
            torch.cuda.set_rng_state(tensor)
    state.step = facts["step"]
    return facts


def uses_dropout(model: nn.Module) -> bool:
    config: Any = getattr(model, "config", None)
    attention = bool(config and config.variant.dropout)
    return attention or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(state: TrainState) -> dict[str, Tensor]:
    parameters = trained(state.model)
    tensors: dict[str, Tensor] = {f"model|{name}": p.detach() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer|{name}|{key}"] = value
    return tensors | _random_streams()


def _random_streams() -> dict[str, Tensor]:
    streams = {f"random|{distributed.rank()}": torch.get_rng_state()}
    if torch.cuda.is_available():
        streams[f"random_cuda|{distributed.rank()}"] = torch.cuda.get_rng_state()
    return streams


def _gathered(own: dict[str, str], group: dist.ProcessGroup | None) -> dict[str, str]:
    """Return the entries of all ranks, on every rank."""
    if group is None:
        return own
    all_ranks: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(all_ranks, own, group)
    return {name: digest for part in all_ranks for name, digest in part.items()}
