"""lm-eval on our model: the tasks from official files, gold and shuffled answers, agreement with its own backend."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval, the extra `evaluation`, is not installed")

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from llama2_core.config import ModelConfig
from llama2_core.errors import ConfigError, DataError
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from tasks.benchmark_code import humaneval, mbpp
from tasks.benchmark_data import add, newest
from tasks.benchmark_judge import TASK, judge
from tasks.benchmark_recipe import FOLDER, BenchmarkRecipe, TaskRecipe, suite_recipe, suites
from tasks.benchmark_stage import score_rows
from tasks.chat_server import ChatServer
from tasks.harness import Answers, HarnessModel
from tasks.harness_tasks import datasets_needed, load_tasks
from tasks.sandbox import available
from tests.tasks import benchmark_files

CALCULATING = ("svamp_calculator", "mawps_calculator", "asdiv_calculator")
SPOKEN = {
    "gsm8k": "{answer}",
    "gsm8k_cot": "The answer is {target}.",
    "bbh_cot_fewshot_word_sorting": "So the answer is {target}.",
    "math_4shot": "{solution}",
    "nq_open": "{target}",
    "triviaqa": "{target}",
    "squad": "{target}",
    "quac": "{target}",
    "svamp": "The answer is {target}",
    "mawps": "The answer is {target}",
    "asdiv_answered": "The answer is {target}",
    **({} if available() else dict.fromkeys(CALCULATING, "CALCULATOR({target}) = {target}")),
}
"""Generation tasks, and how a right answer is said."""
CHOSEN = {
    "hellaswag": 4,
    "piqa": 2,
    "social_iqa": 3,
    "arc_easy": 4,
    "arc_challenge": 4,
    "openbookqa": 4,
    "commonsense_qa": 5,
    "winogrande": 2,
    "boolq": 2,
    "mmlu_anatomy": 4,
    "cmmlu_anatomy": 4,
    "truthfulqa_mc1": 3,
    "truthfulqa_mc2": 2,
}
"""Multiple-choice tasks, and among how many one chooses."""
METRICS = ("acc", "exact_match", "f1")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return data set -> folder in a store of small benchmarks."""
    folder = tmp_path_factory.mktemp("benchmarks")
    store = Store(folder / "artifacts")
    add([benchmark_files.write(folder / "files")], store, partial=True)
    return {name: artifact.path for name, artifact in newest(store).items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(itself: Any = None, address: Any = (), *_: Any) -> None:
        if address[:1] != ("127.0.0.1",):
            raise AssertionError("the evaluation asks the network")
        connect(itself, address)

    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # read from the environment at import
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def recipe(*names: str, **settings: Any) -> BenchmarkRecipe:
    return BenchmarkRecipe(tasks=tuple(TaskRecipe(name=name) for name in names), **settings)


class Oracle(LM):
    """Gives the answer of the question `step` further on: its own for 0."""

    def __init__(self, tasks: dict[str, Any], step: int) -> None:
        super().__init__()
        self.tasks, self.step = tasks, step
        self.docs = {name: list(task.eval_docs) for name, task in tasks.items()}

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(0.0 if request.idx in self._right(request) else -1e4, True) for request in requests]

    def _right(self, request: Any) -> list[int]:
        task, doc = self.tasks[request.task_name], self._doc(request)
        if request.task_name == "truthfulqa_mc2":
            labels = doc["mc2_targets"]["labels"]
            shift = self.step * request.doc_id
            return [(place + shift) % len(labels) for place, label in enumerate(labels) if label]
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        if request.task_name == "truthfulqa_mc1":  # the first is always right
            return [(gold + self.step * request.doc_id) % 3]
        return [gold if isinstance(gold, int) else task.doc_to_choice(doc).index(gold)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        said = []
        for request in requests:
            doc = self._doc(request)
            target = self.tasks[request.task_name].doc_to_target(doc)
            target = target[0] if isinstance(target, list) else target
            said.append(" " + SPOKEN[request.task_name].format(**{**doc, "target": target}))
        return said

    def _doc(self, request: Any) -> dict:
        docs = self.docs[request.task_name]
        return docs[(request.doc_id + self.step) % len(docs)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def scores(found: Any) -> dict[str, float]:
    best: dict[str, float] = {}
    for row in score_rows(found):
        if row["metric"] in METRICS and row["filter"] != "flexible-extract":
            best[row["task"]] = max(row["value"], best.get(row["task"], 0))
    return best


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1])
def test_gold_answers_score_100_percent_and_shuffled_ones_chance(
    local: dict[str, Path], tmp_path: Path, step: int
) -> None:
    tasks = load_tasks(recipe(*SPOKEN, *CHOSEN), local, tmp_path)
    found = scores(evaluate(Oracle(tasks["tasks"], step), tasks, bootstrap_iters=0))
    assert found.keys() == SPOKEN.keys() | CHOSEN.keys()
    for name, score in found.items():
        if step == 0:
            assert score == 1, name
        elif name in SPOKEN:
            assert score < 0.1, name
        else:
            assert abs(score - 1 / CHOSEN[name]) < 0.2, name


@pytest.fixture
def long_model(config: ModelConfig) -> Transformer:
    """A model whose context holds the prompts, with likelihoods that differ.

    It writes no bytes: of ill-formed UTF-8 transformers makes other replacement characters than SentencePiece.
    """
    made = Transformer(config.model_copy(update={"max_seq_len": 1024}))
    initialise(made, made.config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
        made.output.weight[3:259] = 0
    return made.eval()


def ours(model: Transformer, tokenizer: Tokenizer, folder: Path, **settings: Any) -> HarnessModel:
    folder.mkdir(exist_ok=True)
    return HarnessModel(
        model, tokenizer, Answers(folder / "answers.jsonl", folder / "metrics.jsonl"), **settings
    )


AGREED = (
    *("hellaswag", "arc_easy", "winogrande", "commonsense_qa", "mmlu_anatomy", "truthfulqa_mc2"),
    *("gsm8k_cot", "squad", "nq_open", "svamp"),
)


@pytest.mark.slow
def test_lm_evals_own_backend_agrees(
    long_model: Transformer, tokenizer: Tokenizer, local: dict[str, Path], tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    from llama2_core.interop.convert import convert
    from llama2_core.training.checkpoint import save_model

    save_model(tmp_path / "ours", long_model, tokenizer)
    convert(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    asked = recipe(*AGREED, limit=3)
    found, expected = (
        evaluate(lm, load_tasks(asked, local, tmp_path), limit=asked.limit, bootstrap_iters=0)["samples"]
        for lm in (
            ours(long_model, tokenizer, tmp_path, slots=4),
            HFLM(pretrained=str(tmp_path / "theirs"), device="cpu", batch_size=4, dtype="float32"),
        )
    )
    assert found.keys() == expected.keys()
    for task, samples in expected.items():
        for mine, theirs in zip(found[task], samples, strict=True):
            assert mine["arguments"] == theirs["arguments"], task
            for answer, other in zip(mine["resps"], theirs["resps"], strict=True):
                if isinstance(other[0], str):
                    assert answer == other, task
                else:
                    assert answer[0][0] == pytest.approx(other[0][0], abs=1e-3), task
                    assert answer[0][1] == other[0][1], task
            for name in theirs["metrics"]:
                assert mine[name] == pytest.approx(theirs[name], abs=1e-4), task


class Interrupted(Exception):
    """Ctrl-C in the middle."""


def test_an_interrupted_evaluation_asks_for_the_rest_only(
    long_model: Transformer, tokenizer: Tokenizer, local: dict[str, Path], tmp_path: Path
) -> None:
    """Stopped among choices, among code (where there is a sandbox), among other texts; a torn line each time."""
    names = ("arc_easy", "svamp") if available() else ("arc_easy", "humaneval_sandboxed", "svamp")
    asked = recipe(*names, limit=8)
    total = 8 * 4 + 8 * (len(names) - 1)

    def run(lm: HarnessModel) -> Any:
        return evaluate(lm, load_tasks(asked, local, tmp_path), limit=asked.limit, bootstrap_iters=0)

    whole = run(ours(long_model, tokenizer, tmp_path / "whole", slots=4))
    for most in (20, total - 12, total - 4):
        stopped = ours(long_model, tokenizer, tmp_path / "parts", slots=4)
        add_one = stopped.answers.add

        def add(
            *answer: Any, stopped: HarnessModel = stopped, add_one: Any = add_one, most: int = most
        ) -> None:
            if len(stopped.answers.of) == most:
                raise Interrupted
            add_one(*answer)

        stopped.answers.add = add  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            run(stopped)
        with (tmp_path / "parts" / "answers.jsonl").open("a") as file:
            file.write('{"request": "torn')
    again = ours(long_model, tokenizer, tmp_path / "parts", slots=4)
    assert again.answers.reused == total - 4
    resumed = run(again)
    lines = (tmp_path / "parts" / "answers.jsonl").read_text().splitlines()
    assert len({json.loads(line)["request"] for line in lines}) == len(lines) == total
    assert resumed["results"] == whole["results"]
    for name in names:
        for each, other in zip(resumed["samples"][name], whole["samples"][name], strict=True):
            if name == "arc_easy":  # other batches, other roundings
                found, expected = ([choice[0][0] for choice in one["resps"]] for one in (each, other))
                assert found == pytest.approx(expected, abs=1e-4)
            else:
                assert each["resps"] == other["resps"]


def test_what_a_short_context_cuts_is_counted(
    model: Transformer, tokenizer: Tokenizer, local: dict[str, Path], tmp_path: Path
) -> None:
    asked = recipe("gsm8k_cot", "truthfulqa_mc1", limit=3)
    lm = ours(model, tokenizer, tmp_path)
    evaluate(lm, load_tasks(asked, local, tmp_path), limit=3, bootstrap_iters=0)
    assert lm.counts == {"requests": 3 + 3 * 3, "truncated": 12, "answers_shortened": 3}


def test_prompts_begin_with_bos_as_the_recipe_says(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with_bos, without = (ours(model, tokenizer, tmp_path, bos=bos) for bos in (True, False))
    assert with_bos.tok_encode("the cat") == [tokenizer.bos_id, *without.tok_encode("the cat")]
    assert without.apply_chat_template([{"role": "user", "content": "the cat"}]) == "[INST] the cat [/INST]"


def test_names_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="outside of any sandbox"):
        datasets_needed(recipe("humaneval"))
    needed = datasets_needed(recipe("mmlu", "bold", "agieval_en"))
    assert needed == {"mmlu": {"mmlu"}, "bold": {"bold", "vader_lexicon"}, "agieval_en": {"agieval"}}


@pytest.mark.slow  # all of lm-eval's files are indexed
def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no task 'helaswag': did you mean hellaswag"):
        datasets_needed(recipe("helaswag"))


def test_data_that_are_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"piqa: its data cannot be opened.*benchmarks add"):
        load_tasks(recipe("piqa"), {}, tmp_path)


def test_too_few_examples_are_told(local: dict[str, Path], tmp_path: Path) -> None:
    asked = BenchmarkRecipe(tasks=(TaskRecipe(name="mmlu_anatomy", shots=6),))
    with pytest.raises(DataError, match="6 examples are asked for, but its files hold 5"):
        load_tasks(asked, local, tmp_path)


def test_every_suite_has_tasks_that_exist_and_data_in_the_table() -> None:
    for name in suites():
        if name == "code" and available():
            with pytest.raises(ConfigError, match="no task of the suite code can be asked here"):
                suite_recipe(name)
            continue
        needed = datasets_needed(suite_recipe(name))
        assert needed
        assert name == "starter" or all(needed.values())


def test_a_group_of_the_suite_is_the_mean_that_the_paper_prints() -> None:
    for name, group in suites()["table3"].items():
        for size in range(4):
            mean = sum(member.paper[size] or 0 for member in group.members) / len(group.members)
            misprint = name == "Math" and size < 2
            assert (abs(mean - (group.paper[size] or 0)) < 0.11) != misprint, (name, size)


class Truthful(BaseHTTPRequestHandler):
    """Calls an answer true when it is short; every other time it does not judge as it is asked to."""

    asked = 0

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        answer = text.split("[Answer to be judged]\n")[1].split("\n[End")[0]
        type(self).asked += 1
        said = (
            f"True: {'yes' if len(answer) < 30 else 'no'}\nInformative: yes"
            if "9" in answer
            else "Who knows?"
        )
        reply = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, format: str, *words: object) -> None: ...


def test_generated_answers_are_judged_once(tmp_path: Path) -> None:
    document = {"question": "What is 4 + 5?", "correct_answers": ["9"], "incorrect_answers": ["8"]}
    said = ["9", "It is 9, and grass is blue all the year round.", "No idea"]
    samples = [
        {"doc": document, "filtered_resps": [answer], "filter": "none", "metrics": []} for answer in said
    ]

    def judged() -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {"samples": {TASK: [dict(each) for each in samples]}, "results": {TASK: {}}}
        kept = Answers(tmp_path / "answers.jsonl", tmp_path / "metrics.jsonl")
        return found, judge(found, ChatServer.parse(f"http://127.0.0.1:{port}/v1#rater"), kept)

    with ThreadingHTTPServer(("127.0.0.1", 0), Truthful) as server:
        port = server.server_port
        Thread(target=server.serve_forever, daemon=True).start()
        found, unjudged = judged()
        asked = Truthful.asked
        again, _ = judged()
        server.shutdown()
    assert found["results"][TASK] == {
        "true,none": 0.5,
        "informative,none": 1.0,
        "true_and_informative,none": 0.5,
    }
    assert unjudged == 1
    assert again["results"] == found["results"] and Truthful.asked == asked == 3


def test_a_judged_task_needs_a_judge() -> None:
    with pytest.raises(ConfigError, match="truthfulqa_judged needs a judge"):
        datasets_needed(recipe("truthfulqa_judged"))
    with_judge = suite_recipe("safety", judge="http://127.0.0.1:1/v1#m")
    assert {task.name for task in with_judge.tasks} - {
        task.name for task in suite_recipe("safety").tasks
    } == {TASK}


@pytest.mark.skipif(bool(available()), reason="there is no sandbox here")
def test_code_is_judged_in_a_sandbox(tmp_path: Path) -> None:
    document = {
        "prompt": "def add(a, b):\n",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5",
        "entry_point": "add",
        "test_setup_code": "",
        "test_list": ["assert add(2, 3) == 5"],
    }
    for body, passed in (
        ("    return a + b", 1.0),
        ("    return a - b", 0.0),
        ("    import os; os._exit(0)", 0.0),
    ):
        assert humaneval(document, [body]) == {"pass@1": passed}
        assert mbpp(document, [document["prompt"] + body]) == {"pass@1": passed}


class Coder(LM):
    """Writes the right program in some of its samples."""

    def __init__(self, right: dict[str, int]) -> None:
        super().__init__()
        self.right, self.said = dict(right), 0

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._program(request) for request in requests]

    def _program(self, request: Any) -> str:
        self.right[request.task_name] -= 1
        if self.right[request.task_name] < 0:
            return "    return 0" if request.task_name.startswith("human") else "x = 0"
        return request.doc.get("canonical_solution") or request.doc["code"]

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.mark.slow
@pytest.mark.skipif(bool(available()), reason="there is no sandbox here")
def test_pass_at_k_is_estimated_from_the_samples(local: dict[str, Path], tmp_path: Path) -> None:
    """One of 200 samples right: half of all draws of 100 hold it. One of 80 right: every draw of 80 does."""
    tasks = load_tasks(recipe("humaneval_pass100", "mbpp_pass80"), local, tmp_path)
    found = evaluate(Coder({"humaneval_pass100": 1, "mbpp_pass80": 1}), tasks, limit=1, bootstrap_iters=0)
    rows = {row["task"]: row for row in score_rows(found)}
    assert {name: (row["metric"], row["value"]) for name, row in rows.items()} == {
        "humaneval_pass100": ("pass@100", 0.5),
        "mbpp_pass80": ("pass@80", 1.0),
    }
    assert [len(each["resps"][0]) for each in found["samples"]["humaneval_pass100"]] == [200]


def test_tasks_of_code_sample_as_the_paper_says() -> None:
    from llama2_core.evaluation.code import HUMANEVAL_STOPS, TOP_P, temperature

    for name, k in (
        ("humaneval_sandboxed", 1),
        ("humaneval_pass100", 100),
        ("mbpp_sandboxed", 1),
        ("mbpp_pass80", 80),
    ):
        settings = load_yaml(FOLDER / f"{name}.yaml", resolve_func=False)["generation_kwargs"]
        assert (settings["temperature"], settings["top_p"]) == (temperature(k), TOP_P)
        assert settings["until"] == (list(HUMANEVAL_STOPS) if "humaneval" in name else ["[DONE]"])


def test_what_was_asked_names_a_score(
    long_model: Transformer, tokenizer: Tokenizer, local: dict[str, Path], tmp_path: Path
) -> None:
    """Other questions or settings, another hash; a group's is over its members."""

    def hashes(*names: str, limit: int) -> dict[str, str]:
        lm = ours(long_model, tokenizer, tmp_path, slots=4)
        found = evaluate(lm, load_tasks(recipe(*names), local, tmp_path), limit=limit, bootstrap_iters=0)
        rows = list(score_rows(found))
        assert all(row["members"] == [row["task"]] or row["is_group"] for row in rows)
        return {row["task"]: row["prompt_hash"] for row in rows}

    first, again, more = (hashes("svamp", "arc_easy", limit=limit) for limit in (2, 2, 3))
    assert first == again and len({*first.values(), *more.values()}) == 4
