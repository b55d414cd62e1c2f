"""The child's side of a stage: `python -m tasks.worker DIR`, alone or under torchrun. No prefect, no mlflow.

Reads DIR/job.json, resumes from DIR/checkpoints, writes DIR/metrics.jsonl, the artifact's files, DIR/summary.json
and, last, DIR/DONE.
"""

import json
import os
import sys
from pathlib import Path

import torch

from llama2_core.training import distributed
from tasks import sampling_stages, training_stages
from tasks.process import die_with_parent
from tasks.stage import Stage

STAGES = {
    "base": training_stages.pretrain,
    "chat": training_stages.fine_tune,
    "reward": training_stages.reward,
    "ppo": training_stages.proximal,
    "comparisons": sampling_stages.comparisons,
    "samples": sampling_stages.samples,
    "evaluation": sampling_stages.evaluation,
}


def main(directory: Path) -> None:
    die_with_parent()  # torchrun may stand between us and the parent that asked for it
    job = json.loads((directory / "job.json").read_text())
    torch.set_num_threads(job["settings"]["threads"])
    distributed.start()
    stage = Stage(
        directory=directory,
        recipe=job["recipe"],
        seed=job["seed"],
        parents={role: Path(path) for role, path in job["parents"].items()},
        **job["settings"],
    )
    summary = STAGES[job["kind"]](stage)
    distributed.stop()
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        (directory / "summary.json").write_text(json.dumps(summary))
        (directory / "DONE").touch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads abort the interpreter's own exit now and then, after correct results


if __name__ == "__main__":
    main(Path(sys.argv[1]))
