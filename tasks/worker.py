"""The child's side of a stage: `python -m tasks.worker DIR`, alone or under torchrun. No prefect, no mlflow.

Without DIR it reads directories from its input, a line each, and does one after the other.
In each it reads job.json, resumes from checkpoints/, writes metrics.jsonl, the artifact's files and, last, DONE.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from select import select

from tasks.process import Meter, die_with_parent, release_freed_memory, reuse_freed_memory

if (
    __name__ == "__main__"
):  # before torch, which takes seconds: torchrun starts its ranks in sessions of their own
    if "RANK" in os.environ and os.getppid() == 1:
        sys.exit("torchrun has ended before this rank began")
    die_with_parent()
    reuse_freed_memory()

import torch

from llama2_core.seeding import derive_seed, seed_everything
from llama2_core.training import distributed
from storage.disk import atomic_write
from tasks import (
    arena_stages,
    attention_stage,
    benchmark_stage,
    comparison_stage,
    contamination_stage,
    dpo_stage,
    ghost_stage,
    ppo_stage,
    rejection_stage,
    safety_stages,
    sampling_stages,
    scoring_stage,
    temporal_stage,
    training_stages,
)
from tasks.runtime import Execution
from tasks.signs import noted
from tasks.stage import Stage

STAGES = {
    "base": training_stages.pretrain,
    "chat": training_stages.fine_tune,
    "reward": training_stages.reward,
    "ppo": ppo_stage.proximal,
    "dpo": dpo_stage.dpo,
    "comparisons": comparison_stage.comparisons,
    "samples": rejection_stage.samples,
    "evaluation": sampling_stages.evaluation,
    "distilled": safety_stages.distilled,
    "answers": safety_stages.answers,
    "scores": scoring_stage.scores,
    "replies": arena_stages.replies,
    "verdicts": arena_stages.verdicts,
    "constraints": ghost_stage.constraints,
    "ghost": ghost_stage.ghost,
    "retention": ghost_stage.retention,
    "attention": attention_stage.attention,
    "temporal": temporal_stage.temporal,
    "contamination": contamination_stage.contamination,
    "benchmarks": benchmark_stage.benchmarks,
}


def main(directories: Sequence[str]) -> None:
    if directories:
        perform(Path(directories[0]))
    else:
        serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads abort the interpreter's own exit now and then, after correct results


def serve() -> None:
    """Do the stages named on our input; what each prints goes to its own log."""
    if not select([sys.stdin], [], [], 0)[0]:
        import torch._dynamo  # noqa: F401, PLC0415  (a second that the first AdamW would take)
    for line in sys.stdin:
        directory = Path(line.strip())
        with (directory / "worker.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        perform(directory)


def perform(directory: Path) -> None:
    """Do one stage, and say DONE."""
    with noted(directory, int(os.environ.get("RANK", "0"))):
        _perform(directory)


def _perform(directory: Path) -> None:
    release_freed_memory()  # the last stage's
    meter = Meter()
    job = json.loads((directory / "job.json").read_text())
    execution = Execution.model_validate(job["settings"])
    torch.set_num_threads(execution.threads)
    distributed.start(execution.silence_seconds)
    seed_everything(derive_seed(job["seed"], job["kind"], "torch", distributed.rank()))
    stage = Stage(
        directory=directory,
        recipe=job["recipe"],
        seed=job["seed"],
        parents={role: directory / path for role, path in job["parents"].items()},
        execution=execution,
    )
    summary = STAGES[job["kind"]](stage)
    on_gpu = distributed.device().type == "cuda"
    used = torch.tensor([meter.cpu_seconds(), meter.peak_memory_bytes(), on_gpu], dtype=torch.float64)
    cpu_seconds, memory, accelerators = distributed.sum_across_ranks(used).tolist()
    distributed.stop()
    if os.environ.get("RANK", "0") == "0":
        done = {"summary": summary, "cpu_seconds": cpu_seconds, "peak_memory_bytes": int(memory)}
        done["accelerators"] = int(accelerators)
        atomic_write(directory / "DONE", json.dumps(done).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
