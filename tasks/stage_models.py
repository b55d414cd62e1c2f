"""Models by names: base, sft, rejection, ppo, helpfulness, safety, or nothing for the best there is; dialogs."""

from storage.artifacts import Artifact, Store
from storage.errors import ArtifactNotFound

DIGEST_CHARACTERS = 64
JUDGES = ("helpfulness", "safety")
"""Domains, which name the newest reward model of each."""
MADE_FROM = {"sft": "dialogs", "rejection": "samples"}
"""Stages whose models are of kind "chat", and what only they are made from."""


def model_artifact(name: str, store: Store) -> Artifact:
    """Return the model of a stage, of the newest run that came to its gate, or the artifact of a name.

    Without a name: what the newest gate kept, or where there was none the newest fine-tuned model. "dialogs" are those
    that the gate asked, not a reader's own, which have no prompts. Raises ArtifactNotFound.
    """
    verdict = next((a for a in reversed(store.artifacts()) if a.kind == "verdict"), None)
    if not name:
        name = verdict.summary["champion"] if verdict else "chat"
    if verdict and name in verdict.manifest.parents:
        return _examined("model", verdict.manifest.parents[name], store)
    if verdict and name == "dialogs":
        return _examined("dialogs", next(iter(verdict.manifest.parents.values())), store)
    if name in JUDGES:
        made = [a for a in store.artifacts() if a.kind == "reward" and a.manifest.recipe["domain"] == name]
        if not made:
            raise ArtifactNotFound(
                f"There is no {name} reward model in {store.root}. Run `llama2 run` first."
            )
        return made[-1]
    if name in MADE_FROM:
        made = [a for a in store.artifacts() if a.kind == "chat" and MADE_FROM[name] in a.manifest.parents]
        if made:
            return made[-1]
    return store.resolve(name)


def full_name(name: str, store: Store) -> str:
    """Return "kind/digest" of an artifact or of a stage's model; what is given in full may be in a remote store.

    Raises ArtifactNotFound.
    """
    whole = len(name.partition("/")[2]) == DIGEST_CHARACTERS
    return name if whole else model_artifact(name, store).full_name


def _examined(role: str, evaluation: str, store: Store) -> Artifact:
    """Return the model that an evaluation examined, or the dialogs that it asked."""
    examined = store.find(*evaluation.split("/"))
    found = store.find(*examined.manifest.parents[role].split("/")) if examined else None
    if found is None:
        raise ArtifactNotFound(f"The {role} of the newest gate is gone. Run `llama2 run` again.")
    return found
