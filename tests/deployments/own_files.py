"""What the docs take for a reader's own: small files in the formats that they ask for."""

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

from deployments import plan_command
from tests.deployments.test_tutorial import book
from tests.tasks import benchmark_files

CHARACTERS = "我们今天学习天气很好他在家里看书水火山石田土人口手上下"
YES = "It is more than three."


def write(folder: Path) -> Path:
    """Write benchmarks, prompts, dialogs, comparisons, texts of two languages and a cluster."""
    benchmark_files.write(folder)
    (folder / "dev.jsonl").symlink_to("boolq/dev.jsonl")
    (folder / "toxigen").symlink_to("prompts")
    asked = [f"What is {number} + 4?" for number in range(24)]
    jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in asked])
    jsonl(folder / "adversarial.jsonl", [{"prompt": prompt, "domain": "safety"} for prompt in asked])
    talks = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": YES}] for prompt in asked]
    jsonl(folder / "chats.jsonl", [{"messages": talk} for talk in talks])
    pairs = [(f"\n\nHuman: {prompt}\n\nAssistant: {answer}" for answer in (YES, "No.")) for prompt in asked]
    pairs = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    jsonl(folder / "harmless.jsonl", pairs)
    (folder / "harmless.jsonl.gz").write_bytes(gzip.compress((folder / "harmless.jsonl").read_bytes()))
    draws = random.Random(0)
    chinese = ["".join(draws.choices(CHARACTERS, k=60)) for _ in range(200)]
    (folder / "chinese.txt").write_text("\n".join(chinese))
    (folder / "texts").mkdir()
    jsonl(folder / "texts" / "chinese.jsonl", [{"text": line} for line in chinese])
    (folder / "texts" / "book.txt").write_text(book())
    shutil.copy(plan_command.CLUSTERS / "laptop-2-cores.yaml", folder / "mine-cluster.yaml")
    return folder


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
