"""Does the alarm ring? PPO against the reward models of the first round, with nothing that holds it.

`python -m benchmarks.goodhart [--home var]`, after `llama2 rlhf`. From the last round's rejection-sampling model, PPO
maximises reward models that never saw its answers: no KL penalty, thrice the rate, no early stop. Another reward
model watches. Printed are what the reward models saw, what the watcher and the annotator say, and the diagnosis.
"""

import argparse
from pathlib import Path

from deployments.profiles import RoundsProfile, load_profile
from deployments.services.flow_runs import running_flows
from storage.artifacts import Artifact, Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("var"))
    parser.add_argument("--iterations", type=int, default=40)
    chosen = parser.parse_args()
    profile = load_profile("rlhf/laptop", [f"runtime.home={chosen.home}"], RoundsProfile)
    recipe, runtime, store = profile.recipe, profile.runtime, Store(chosen.home / "artifacts")
    made = store.artifacts()
    last = next(a for a in reversed(made) if a.kind == "ppo" and "independent" in a.manifest.parents)
    stale = {
        domain: newest_judge(made, store, domain, f"{recipe.comparisons.batch}-1")
        for domain in ("helpfulness", "safety")
    }
    start, watcher = last.manifest.parents["chat"], last.manifest.parents["independent"]
    loose = recipe.ppo.bounds.model_copy(update={"kl": 1e9, "goodhart": 1.0})
    held = recipe.ppo.ppo
    reckless = recipe.ppo.model_copy(
        update={
            "ppo": held.model_copy(
                update={"kl_coef": 0.0, "iterations": chosen.iterations, "patience": 1000}
            ),
            "optimizer": recipe.ppo.optimizer.model_copy(
                update={"peak_learning_rate": 3 * recipe.ppo.optimizer.peak_learning_rate}
            ),
            "bounds": loose,
        }
    )
    with running_flows(chosen.home):
        from flows.evaluate import evaluate  # noqa: PLC0415
        from flows.rlhf import ppo  # noqa: PLC0415
        from llama2_core.rlhf.diagnosis import Bounds, summarise  # noqa: PLC0415
        from storage.metrics import read_metrics  # noqa: PLC0415
        from tasks.launch import find  # noqa: PLC0415
        from tasks.rounds import over  # noqa: PLC0415

        dialogs = last.manifest.parents["dialogs"]
        seen = {"dialogs": dialogs, "seed": recipe.seed, "runtime": runtime}
        name = ppo(start, **stale, recipe=reckless, independent=watcher, **seen)
        before = evaluate(start, "the start", recipe.evaluation, **seen)
        after = evaluate(name, "reckless PPO", recipe.evaluation, **seen)
        history = read_metrics(find(name, runtime).path / "metrics.jsonl")
        for row in history:
            if "held_out_reward" in row:
                told = {
                    k: f"{row[f'held_out_{k}']:.3f}"
                    for k in ("reward", "kl", "independent")
                    if f"held_out_{k}" in row
                }
                print(f"iteration {row['step']:>3}: {told}")
        for finding in summarise(history, Bounds()):
            print(f"alarm at iteration {finding.iteration}: {finding.says}")
        print("over the start, by the annotator:", over(after, before, runtime))


def newest_judge(made: list[Artifact], store: Store, domain: str, batch: str) -> str:
    """Return the newest reward model of a domain that was trained on one batch alone."""
    for artifact in reversed(made):
        parents = {role: n for role, n in artifact.manifest.parents.items() if role.startswith("comparisons")}
        if artifact.kind == "reward" and artifact.manifest.recipe["domain"] == domain and len(parents) == 1:
            source = store.find(*parents["comparisons1"].split("/"))
            if source and source.manifest.recipe["batch"] == batch:
                return f"{artifact.kind}/{artifact.digest}"
    raise SystemExit(f"no {domain} reward model of batch {batch} alone: run `llama2 rlhf` first")


if __name__ == "__main__":
    main()
