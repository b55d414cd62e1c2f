"""Our model behind lm-evaluation-harness: likelihoods that share what prompts share, generation with slots.

Tokens, splits and truncation are those of lm-eval's own Hugging Face backend, so that scores agree. Every answer is
kept on disk as it comes, under a hash of its request: an evaluation that was interrupted asks for the rest only.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llama2_core.chat import B_INST, E_INST, Message, fold_system
from llama2_core.completion import until_stop
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.evaluation.likelihood import Pair, score_completions
from llama2_core.evaluation.prefixes import LEAST_STEM_TOKENS, common_to_all
from llama2_core.generate import Request, generate
from llama2_core.model import Transformer
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from storage.disk import naming_full_disk
from storage.metrics import MetricLog, read_metrics
from tasks.calculator import END, SETTING, Asked, answered, until_call

NEW_TOKENS = 256
"""Of an answer, where a task says nothing: lm-eval's default."""
BOOTSTRAPS = 1000
"""Drawn for the standard errors of what is no mean."""
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", SETTING}
"""Settings of generation that are followed; others are counted and told."""


class Answers:
    """The answers so far, by request; a line is written before the next is asked."""

    def __init__(self, path: Path, progress: Path) -> None:
        rows = read_metrics(path)
        self.of: dict[str, Any] = {row["request"]: row["answer"] for row in rows}
        self.reused = len(self.of)
        self._path = path
        with path.open("w" if not rows else "r+") as file:  # a torn last line goes
            file.truncate(sum(len(json.dumps(row)) + 1 for row in rows))
        self._file = path.open("a")
        self._progress = MetricLog(progress)

    def add(self, request: str, answer: Any, remaining: int) -> None:
        """Raises DiskFull."""
        self.of[request] = answer
        with naming_full_disk(self._path):
            self._file.write(json.dumps({"request": request, "answer": answer}) + "\n")
            self._file.flush()
        if remaining % 32 == 0:
            self._progress.append({"step": len(self.of), "of": len(self.of) + remaining})


class HarnessModel(TemplateLM):
    """What lm-eval asks a model: log-likelihoods, rolling ones, and generation."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        answers: Answers,
        bos: bool = True,
        seed: int = 0,
        slots: int = 128,
        batch_tokens: int = 8192,
    ) -> None:
        super().__init__()
        self.model, self.pieces, self.answers = model, tokenizer, answers
        self.bos, self.seed, self.slots, self.batch_tokens = bos, seed, slots, batch_tokens
        self.counts: Counter[str] = Counter(requests=0, truncated=0, answers_shortened=0)
        """Of requests; `truncated` lost the beginning of their prompt, for the model's context is shorter."""

    @property
    def eot_token_id(self) -> int:
        return self.pieces.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.pieces.bos_id

    @property
    def max_length(self) -> int:
        return self.model.config.max_seq_len

    @property
    def tokenizer_name(self) -> str:
        return self.pieces.digest

    def chat_template(self, chat_template: bool | str = False) -> str:
        return f"{B_INST} message {E_INST}"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a single turn by the user in the template; BOS is put before it with the tokens."""
        turns = fold_system([Message.model_validate(turn) for turn in chat_history])
        if len(turns) > 1:
            raise DataError("benchmarks are asked in one turn: examples stand in it too")
        return f"{B_INST} {turns[0].content.strip()} {E_INST}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.pieces.encode(string, bos=self.bos if add_special_tokens is None else add_special_tokens)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        keys = [request_key("loglikelihood", *texts) for texts, _, _ in requests]
        asked = {
            key: self._fitting(context, completion)
            for key, (_, context, completion) in zip(keys, requests, strict=True)
        }
        self._score(asked)
        return [(logprob, greedy) for logprob, greedy in (self.answers.of[key] for key in keys)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows_of: list[list[str]] = []
        asked: dict[str, Pair] = {}
        for (text,) in (request.args for request in requests):
            rolling = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            windows = [make_disjoint_window(window) for window in rolling]
            keys = [request_key("window", *window) for window in windows]
            asked |= zip(keys, windows, strict=True)
            windows_of.append(keys)
        self._score(asked)
        return [sum(self.answers.of[key][0] for key in keys) for keys in windows_of]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        asked = [Asked(str(request.task_name), *cast("Any", request.args)) for request in requests]
        return answered(asked, self._generate, lambda text: len(self.pieces.encode(text)))

    def _generate(self, requests: Sequence[Asked]) -> list[str]:
        asked: dict[str, tuple[Asked, Request]] = {}
        keys, seen = [], Counter()
        for request in requests:
            name = request_key("generate", request.context, request.settings)
            seen[name] += 1  # a task may ask the same several times
            keys.append(key := f"{name}-{seen[name]}")
            asked[key] = request, self._request(key, request.context, request.settings)
        self.counts["requests"] += len(keys)
        waiting = [(request.task, key) for key, (request, _) in asked.items() if key not in self.answers.of]
        left = len(waiting)
        for _, of_task in groupby(sorted(waiting), key=lambda each: each[0]):
            names = sorted((key for _, key in of_task), key=lambda key: -len(asked[key][1].tokens))
            todo = [asked[key][1] for key in names]
            least = min(len(each.tokens) for each in todo) - 1
            shared = min(common_to_all([tuple(each.tokens) for each in todo]), least)
            shared = shared if shared >= LEAST_STEM_TOKENS and len(todo) > 1 else 0
            done = generate(self.model, todo, self.pieces.eos_id, self.slots, self.pieces.decode, shared)
            for index, said in done:
                left -= 1
                calculates = bool(asked[names[index]][0].settings.get(SETTING))
                self.answers.add(names[index], self._text(todo[index], said.tokens, calculates), left)
        return [self.answers.of[key] for key in keys]

    def _text(self, request: Request, tokens: list[int], calculates: bool) -> str:
        """Return an answer up to its stop; one that goes on after a call keeps the space that it begins with."""
        if not calculates:
            return until_stop(self.pieces.decode(tokens), request.config.stop)
        before = request.tokens[-1]
        text = self.pieces.decode([before, *tokens]).removeprefix(self.pieces.decode([before]))
        return until_call(text, request.config.stop)

    def _request(self, key: str, context: str, settings: dict[str, Any]) -> Request:
        told: dict[str, Any] = dict(normalize_gen_kwargs(settings, NEW_TOKENS))
        for unknown in told.keys() - KNOWN:
            self.counts[f"ignored {unknown}"] += 1
        stop = handle_stop_sequences(told["until"], eos="</s>") + [END] * bool(told.get(SETTING))
        new = told["max_gen_toks"]
        if new >= self.max_length:
            new = max(1, self.max_length // 2)
            self.counts["answers_shortened"] += 1
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        self.counts["truncated"] += len(tokens) > self.max_length - new
        config = SamplingConfig(
            temperature=told["temperature"] if told["do_sample"] else 0.0,
            top_p=told.get("top_p", 1.0),
            top_k=told.get("top_k"),
            repetition_penalty=told.get("repetition_penalty", 1.0),
            max_new_tokens=new,
            stop=tuple(text for text in stop if text),
        )
        return Request(tokens[-(self.max_length - new) :], derive_seed(self.seed, "benchmark", key), config)

    def _fitting(self, context: list[int], completion: list[int]) -> Pair:
        """Return what the model can hold of a pair: the context's beginning goes first, as lm-eval's does."""
        if not completion:  # the completion's text is part of the context's last token
            *context, last = context
            context, completion = context or [self.prefix_token_id], [last]
        whole = len(context) + len(completion)
        self.counts["truncated"] += whole > self.max_length + 1
        completion = completion[: self.max_length]
        return context[-(self.max_length + 1 - len(completion)) :], completion

    def _score(self, asked: dict[str, Pair]) -> None:
        self.counts["requests"] += len(asked)
        keys = [key for key in asked if key not in self.answers.of]
        left = len(keys)
        for scored in score_completions(self.model, [asked[key] for key in keys], self.batch_tokens):
            left -= 1
            self.answers.add(keys[scored.pair], (scored.logprob, scored.greedy), left)


def examine(model: HarnessModel, tasks: dict[str, Any], limit: int | None, chat: bool) -> dict[str, Any]:
    """Return what lm-eval finds, with every sample."""
    found: Any = evaluate(
        model,
        tasks,  # pyright: ignore[reportArgumentType]
        limit=limit,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=False,
    )
    return found


def request_key(*request: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
