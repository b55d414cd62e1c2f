"""The commands of all other pages than the tutorial, as a reader follows them: page by page, at ci size.

Each page has a folder of its own. `var` in it is what `llama2 run` left and other pages have added to; models and files
that a page takes for the reader's own are small ones of the same format. What cannot be tried here is in UNTRIED.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deployments.services.prefect_server import free_port, wait_until_healthy
from deployments.services.stack_state import running_stack
from storage.artifacts import Store
from tests.conftest import serve_gguf as serve_gguf
from tests.deployments import own_files
from tests.deployments.test_docs import PAGES, blocks, commands, program
from tests.deployments.test_postgres import PASSWORD
from tests.deployments.test_postgres import database as database
from tests.deployments.test_tutorial import PAGE as TUTORIAL
from tests.deployments.test_tutorial import follow, readers
from tests.flows.test_retrain import people_compare
from tests.stack import wait_for
from tests.storage.conftest import bucket as bucket
from tests.storage.object_store import BUCKET
from tests.tasks.conftest import served as served

UNTRIED = {
    "make run": "an installation, then llama2 run",
    "make test": "these tests",
    "make serve": "an installation, then llama2 up",
    "make sbom": "an installation, from the network",
    "make audit": "asks a service of the network",
    "source": "an installation's programs, which are on the path here",
    "pip install": "an installation; test_docs.py knows the extras",
    "vllm serve": "wants a GPU, and vLLM",
    "llama2 run --set runtime.home=/shared": "several machines: tests/tasks/test_two_hosts.py",
    "llama2 join": "several machines: tests/tasks/test_two_hosts.py",
}
"""What commands begin with that are not executed here -> why."""


def told(table: dict[str, Any], words: list[str], otherwise: Any = None) -> Any:
    """Return what a table has for the longest beginning of a command that it knows."""
    text = " ".join(program(words))
    longest = max((begins for begins in table if text.startswith(begins)), key=len, default="")
    return table.get(longest, otherwise)


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


CI = ["--profile", "ci"]
ROUNDS = ["--profile", "rlhf/ci"]
GHOST = sets(
    "ghost_attention.start.context={max_seq_len: 256}",
    "ghost_attention.constraints.constraints=starter",
    "ghost_attention.ghost={dialogs: 8, most_turns: 3, sampling: {max_new_tokens: 4}}",
    "ghost_attention.fine_tune={epochs: 1, rows: 2, optimizer: {warmup_steps: 1}}",
    "ghost_attention.retention={turns: [2, 3], dialogs: 4, sampling: {max_new_tokens: 4}}",
    "ghost_attention.attention.dialogs=2",
)
SAFETY = sets("fine_tune.epochs=1", "evaluation.sampling.max_new_tokens=8")
SHORTER = {
    "llama2 run": CI,
    "llama2 run --set runtime.processes": [
        *CI,
        *sets("runtime.threads=1", "recipe.rlhf.ppo.ppo.iterations=1"),
    ],
    "llama2 rlhf": ROUNDS,
    "llama2 rlhf --set recipe.rounds": [*ROUNDS, *sets("recipe.ppo_from=9", "recipe.dpo=null")],
    "llama2 retrain": ["--profile", "retrain/ci", *sets("recipe.approval=true")],
    "llama2 finetune": sets("recipe.epochs=1", "recipe.optimizer.warmup_steps=1"),
    "llama2 finetune base": sets("recipe.epochs=1", "recipe.rows=128"),
    "llama2 adapt": sets(
        "recipe.vocabulary.vocab_size=400",
        "recipe.start.context.max_seq_len=256",
        "recipe.tokens={row_tokens: 129, validation_share: 0.1}",
        "recipe.pretrain.loop={steps: 5, rows: 4, optimizer: {warmup_steps: 1}}",
        "recipe.sft={epochs: 1, rows: 4, lora: {rank: 8}, optimizer: {warmup_steps: 1}}",
    ),
    "llama2 teach ghost-attention": [
        *GHOST,
        *sets("ghost_attention.instructed.demonstrations=60", "ghost_attention.sft.epochs=1"),
    ],
    "llama2 teach ghost-attention my-chat-model/": GHOST,
    "llama2 teach dates": sets(
        "temporal.dated={dialogs: 60, undated: 40}", "temporal.fine_tune.epochs=1", "temporal.questions=20"
    ),
    "llama2 evaluate": ["--limit", "4"],
    "llama2 compare": sets("compare.replies.sampling.max_new_tokens=8", "compare.asked.most=5"),
    "llama2 rate": sets("rate.replies.sampling.max_new_tokens=8"),
    "llama2 diversity": sets(
        "diversity.asked.most=2",
        "diversity.replies={temperatures: [0.1, 1.0], samples: 3, sampling: {max_new_tokens: 8}}",
    ),
    "llama2 benchmarks add": ["--partial"],
    "llama2 safety preprompts": [*SAFETY, *sets("preprompted.demonstrations=100")],
    "llama2 safety distil": [
        *SAFETY,
        *sets("distillation.prompts=20", "distillation.sampling.max_new_tokens=8"),
    ],
    "llama2 safety scaling": [*SAFETY, *sets("scaling.shares=[0, 1]")],
}
"""What commands begin with -> what makes them small; the longest counts."""
ENDS = {
    "llama2 data diff": (1, "only in B"),
    "llama2 retrain": (1, "--approve REASON"),
    "llama2 retrain --approve": (0, "is the champion now"),
    "llama2 compare ppo http": (1, "waits for people"),
    "llama2 rate": (1, "waits for people"),
    "llama2 rlhf --set recipe.comparisons.annotator": (1, "waits for people"),
    "curl": (0, '"choices"'),
}
"""What commands begin with -> their exit status and what they say; the longest counts, and others end with 0."""


class Reader:
    """Who follows a page in a folder, and asks for what is not there by default."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest, running: ExitStack) -> None:
        self.folder, self.ask, self.running = folder, request.getfixturevalue, running
        self.home, self.store = folder / "var", Store(folder / "var" / "artifacts")
        self.port, self.exported = free_port(), dict[str, str]()

    def follow(self, words: list[str]) -> None:
        given = [part for word in words for part in self.given(word)]
        given += told(SHORTER, words, [])
        match given:
            case ["export", exported]:
                name, _, value = exported.partition("=")
                self.exported[name] = value
            case ["llama2", "up"]:
                prefect, mlflow, page = (str(free_port()) for _ in range(3))
                ports = ["--prefect-port", prefect, "--mlflow-port", mlflow, "--annotate-port", page]
                self.serve([*given, *ports], page)
                wait_for(lambda: all_is_well(self.home), 300)
            case ["llama2", "annotate", *_]:
                port = str(free_port())
                end(self.serve([*given, "--port", port], port))
            case [_, "mlflow", "models", "serve", *_]:
                self.serve([*given], str(self.port))
            case _:
                follow(self.folder, given, self.exported, *told(ENDS, words, ()))

    def given(self, word: str) -> list[str]:
        """Return a word with what it stands for, or the files that are called so."""
        if pattern := next((pattern for pattern in STAND_INS if re.search(pattern, word)), ""):
            word = re.sub(pattern, lambda _: STAND_INS[pattern](self), word)
        files = self.folder.glob(word) if re.fullmatch(r"[\w/.]*\*[\w/.]*", word) else ()
        return sorted(str(path.relative_to(self.folder)) for path in files) or [word]

    def serve(self, words: list[str], port: str) -> subprocess.Popen:
        log = self.folder / "server.log"
        with log.open("ab") as output:
            server = subprocess.Popen(
                ["env", *words],
                cwd=self.folder,
                env=readers(self.exported),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.running.callback(end, server)
        wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log, 300)
        return server

    def made(self, kind: str) -> list[str]:
        return [artifact.full_name for artifact in self.store.artifacts() if artifact.kind == kind]

    def adapter(self) -> str:
        """Return where the newest adapter is."""
        return str([a.path / "adapter" for a in self.store.artifacts() if (a.path / "adapter").exists()][-1])

    def served(self) -> str:
        """Return host:port of a server with OpenAI's API that judges, whatever it is asked."""
        address = self.ask("served")(lambda _: "Better: A\nGrade: 2\nA is: safe\nB is: safe")
        return address.removeprefix("http://").removesuffix("/v1#m")

    def llama_cpp(self) -> str:
        follow(self.folder, ["llama2", "convert", "ppo", "my-model.gguf", "--to", "gguf"])
        return self.ask("serve_gguf")(self.folder / "my-model.gguf").removeprefix("http://")

    def bucket(self) -> str:
        self.ask("bucket")
        return f"s3://{BUCKET}/"


STAND_INS: dict[str, Callable[[Reader], str]] = {
    r"^corpus/3f2a$": lambda reader: reader.made("corpus")[0],
    r"^corpus/91bc$": lambda reader: reader.made("corpus")[-1],
    r"^chat/\w+$": lambda reader: reader.made("chat")[-1],
    r"^D$": lambda reader: reader.made("dialogs")[0],
    r"^(one|two)/$": Reader.adapter,
    r"127\.0\.0\.1:800[01]": Reader.served,
    r"127\.0\.0\.1:8080": Reader.llama_cpp,
    r"5001": lambda reader: str(reader.port),
    r"s3://bucket/": Reader.bucket,
    r"llama2@db\.example": lambda reader: reader.ask("database"),
    r"(?<=PGPASSWORD=)\.\.\.": lambda _: PASSWORD,
    r"^cuda$": lambda _: "cpu",
    r"^8$": lambda _: "2",  # --shards: as many as heads allow
    r"(?<=runtime.processes=)8$": lambda _: "2",
    r"^20000$": lambda _: "400",  # --pieces
}
"""What docs name and nobody has -> what it is here."""


def end(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(120)


def all_is_well(home: Path) -> bool:
    stack = running_stack(home)
    return bool(stack) and len(stack.parts) == 4 and all(part.healthy() for part in stack.parts)


OTHERS = [page for page in PAGES if page != TUTORIAL]
FOLLOWED = [page for page in OTHERS if not all(told(UNTRIED, words) for words in commands(page))]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `var`, as a run leaves it, and all that pages take for the reader's own."""
    folder = own_files.write(tmp_path_factory.mktemp("things"))
    follow(folder, ["llama2", "run", "--profile", "ci"])
    follow(folder, ["llama2", "convert", "ppo", "llama-2-7b", "--to", "huggingface"])
    follow(folder, ["llama2", "benchmarks", "add", "hellaswag_val.jsonl", "ARC-Easy-Test.jsonl", "--partial"])
    for name in ("llama-2-7b-chat", "llama-2-70b", "my-model", "my-chat-model"):
        (folder / name).symlink_to("llama-2-7b")
    for batch in ("week-0", "week-1"):
        people_compare(Store(folder / "var" / "artifacts"), batch)
    follow(folder, ["llama2", "preferences", "freeze", "week-0"])
    return folder


@pytest.mark.drill
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(
    page: str, things: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = commands(page)
    made = {words[3] for words in found if words[:2] in (["llama2", "convert"], ["llama2", "extend"])}
    for thing in things.iterdir():
        if thing.name not in made:
            (tmp_path / thing.name).symlink_to(thing)
    example = "docs/adaptation.md" if any("adapt" in words for words in found) else TUTORIAL
    profile = next(text for language, text in blocks(example) if language == "yaml")
    (tmp_path / "mine.yaml").write_text(profile)
    with ExitStack() as running:
        reader = Reader(tmp_path, request, running)
        for words in found:
            if not told(UNTRIED, words):
                reader.follow(words)


def test_every_entry_of_the_tables_is_documented() -> None:
    every = [words for page in OTHERS for words in commands(page)]
    assert not [
        begins
        for table in (UNTRIED, SHORTER, ENDS)
        for begins in table
        if not any(told({begins: True}, words) for words in every)
    ]
