"""The registry: versions of a home's chat model in MLflow, by alias the champion, its candidate and the previous."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from llama2_core.config import Record
from llama2_core.errors import ConfigError
from storage.artifacts import Artifact, Store
from storage.errors import ArtifactNotFound
from tasks.model_card import known_at, model_card
from tasks.runtime import Runtime
from tasks.stage_run import tracker

NAME = "llama2-chat"
CODE = Path(__file__).parent / "chat_model.py"


class Version(Record):
    """A version of the registered model."""

    number: str
    """Given by MLflow, from 1."""
    source: str = ""
    """The model directory that was registered."""
    tags: dict[str, str]
    """All of MLflow's."""

    @property
    def name(self) -> str:
        """Of the artifact, if it is one: "kind/digest"."""
        return "/".join(Path(self.source).parts[-2:])

    def artifact(self, store: Store) -> Artifact:
        """Return what was registered. Raises ArtifactNotFound when it is none of the store."""
        if found := store.find(*self.name.split("/")) if "/" in self.name else None:
            return found
        raise ArtifactNotFound(
            f"version {self.number} of {NAME} was registered from {self.source or 'an unknown place'}, which is no "
            f"artifact of {store.root}: what it was made from is not known. `llama2 register NAME` one that is."
        )


def versions(runtime: Runtime) -> dict[str, Version]:
    """Return alias -> version; a move of aliases that was cut is finished first."""
    tracking = tracker(runtime)
    aliases, tags = tracking.aliases(NAME), tracking.versions(NAME)
    return {
        alias: Version(number=number, source=tags[number].get("llama2.source", ""), tags=tags[number])
        for alias, number in aliases.items()
    }


def register(
    path: Path,
    alias: str,
    runtime: Runtime,
    name: str = NAME,
    tags: Mapping[str, str] | None = None,
    adapters: Sequence[Path] = (),
    note: str = "",
) -> str:
    """Register a model directory under an alias and return its version; the champion before it becomes the previous."""
    from llama2_core.interop.convert import convert  # noqa: PLC0415  (torch takes seconds)

    card = model_card(known_at(name, path, Store(runtime.store_root)), "native", [a.name for a in adapters])
    tracking, about = tracker(runtime), {"llama2.source": str(path), **(tags or {})}
    with TemporaryDirectory() as scratch:
        served = Path(scratch) / "model"
        convert(path, served, "native", adapters=adapters, card=card)
        version = tracking.register(name, CODE, served, about, note)
    if alias == "champion":
        promote(version, runtime, name)
    else:
        tracking.move(name, {alias: version})
    return version


def offer(model: Artifact, tags: Mapping[str, str], runtime: Runtime, note: str) -> str:
    """Register a model as the candidate and return its version; one that is registered is not registered again."""
    tracking = tracker(runtime)
    known = [
        number
        for number, about in tracking.versions(NAME).items()
        if Path(about.get("llama2.source", "")).parts[-2:] == (model.kind, model.digest)
    ]
    if not known:
        return register(model.path, "candidate", runtime, tags=tags, note=note)
    tracking.tag_version(NAME, known[0], tags)
    tracking.move(NAME, {"candidate": known[0]})
    return known[0]


def promote(version: str, runtime: Runtime, name: str = NAME) -> None:
    """Make a version the champion, and the champion before it the previous."""
    before = tracker(runtime).aliases(name).get("champion", "")
    kept = {"previous": before} if before not in ("", version) else {}
    tracker(runtime).move(name, {**kept, "champion": version, "candidate": ""})


def withdraw(runtime: Runtime) -> None:
    """Have no candidate."""
    tracker(runtime).move(NAME, {"candidate": ""})


def roll_back(runtime: Runtime) -> tuple[Version, Version]:
    """Make the previous version champion and the champion previous; return both as they were. Raises ConfigError."""
    found = versions(runtime)
    if not {"champion", "previous"} <= found.keys():
        raise ConfigError(
            f"{NAME} has no previous version in {runtime.tracking_uri}: nothing was promoted over another"
        )
    champion, previous = found["champion"], found["previous"]
    tracker(runtime).move(NAME, {"champion": previous.number, "previous": champion.number})
    return champion, previous
