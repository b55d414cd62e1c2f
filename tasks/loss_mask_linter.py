"""The gate before SFT, reward modelling and PPO: all they would train on is checked, and faults stop the flow."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.chat import encode_dialog, encode_prompt
from llama2_core.config import ModelConfig, Record
from llama2_core.data.loss_masks import (
    Fault,
    dialog_faults,
    nothing,
    pair_faults,
    prompt_faults,
    render,
)
from llama2_core.errors import DataError
from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from storage.disk import atomic_write
from tasks.data_card_page import escaped
from tasks.dpo_recipe import DPORecipe
from tasks.jobs import Job
from tasks.launch import find
from tasks.progress import say
from tasks.recipes import PPORecipe
from tasks.reward_recipe import RewardRecipe
from tasks.runtime import Runtime
from tasks.stage_run import start_run, tracker
from tasks.tables import (
    Lesson,
    dialog_from_json,
    encode_pair,
    read_comparison_rows,
    read_lessons,
    read_prompt_rows,
)

Item = TypeVar("Item")
Row = tuple[Sequence[int], Sequence[bool]]
"""Tokens, and which of them are trained."""
SAMPLE, FAULTS_SHOWN, FAULTS_TOLD = 10, 20, 3


@dataclass
class Findings:
    """What was seen of the dialogs, comparisons or prompts; bounded, however many there are."""

    looked_at: int = 0
    faulty: int = 0
    """Too long ones are not: they are left out of training."""
    tokens: int = 0
    trained: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of fault -> how many have it."""
    faults: list[Fault] = field(default_factory=list)
    too_long: list[Fault] = field(default_factory=list)
    sample: list[tuple[str, list[Row]]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, name: str, rows: list[Row], faults: list[Fault]) -> None:
        too_long = [fault for fault in faults if fault.kind == "too long"]
        wrong = [fault for fault in faults if fault.kind != "too long"]
        self.looked_at += 1
        self.faulty += bool(wrong)
        self.tokens += sum(len(tokens) for tokens, _ in rows)
        self.trained += sum(sum(learned) for _, learned in rows)
        self.counts.update({fault.kind for fault in faults})
        self.faults = (self.faults + wrong)[:FAULTS_SHOWN]
        self.too_long = (self.too_long + too_long)[:FAULTS_SHOWN]
        if rows and len(self.sample) < SAMPLE:
            self.sample.append((name, rows))
        elif rows and (slot := self._random.randrange(self.looked_at)) < SAMPLE:
            self.sample[slot] = (name, rows)


@task(name="loss masks", task_run_name="loss masks of {job.label}", cache_policy=NO_CACHE)
def lint_loss_masks(job: Job, runtime: Runtime) -> None:
    """Check all that a stage will train on, unless it is in the store. Raises DataError naming faults."""
    if Store(runtime.store_root).find(job.kind, job.digest):
        return
    sources = {role: find(name, runtime).path for role, name in job.parents.items()}
    model = sources.get("base") or sources["chat"]
    tokenizer = Tokenizer.load(model / "tokenizer.model")
    context = ModelConfig.model_validate_json((model / "config.json").read_text()).max_seq_len
    findings = lint(job.recipe, sources, tokenizer, context)
    refusal = complaint(findings, runtime.too_long_share)
    path = publish(job, page(job, findings, tokenizer), runtime, failed=bool(refusal))
    if refusal:
        raise DataError(f"{job.label} does not start: {refusal}; {path} shows more.")
    left_out = findings.counts["too long"]
    say(f"[dim]{job.label}: loss masks of {findings.looked_at:,} are right, {left_out:,} are too long[/]")


def lint(recipe: Record, sources: Mapping[str, Path], tokenizer: Tokenizer, context: int) -> Findings:
    """Encode and check what the stage of this recipe trains on, one after the other."""
    match recipe:
        case RewardRecipe():
            return lint_comparisons(sources, tokenizer, context)
        case DPORecipe():
            return lint_comparisons(sources, tokenizer, context, answers=True)
        case PPORecipe():
            return lint_prompts(sources["dialogs"], tokenizer, context, recipe.sampling.max_new_tokens)
        case _:
            return lint_lessons(sources, tokenizer, context)


def lint_lessons(sources: Mapping[str, Path], tokenizer: Tokenizer, context: int) -> Findings:
    def look(name: str, lesson: Lesson) -> tuple[list[Row], list[Fault]]:
        tokens, learned = encode_dialog(lesson.dialog, tokenizer, lesson.learn)
        return [(tokens, learned)], dialog_faults(name, tokens, learned, tokenizer, context + 1)

    return _collect(((lesson.id, lesson) for lesson in read_lessons(sources)), look)


def lint_comparisons(
    sources: Mapping[str, Path], tokenizer: Tokenizer, context: int, answers: bool = False
) -> Findings:
    """Marked as trained is the token whose score is, or the whole answer."""

    def look(name: str, row: dict[str, Any]) -> tuple[list[Row], list[Fault]]:
        pair = encode_pair(row, tokenizer)
        sides = pair.chosen, pair.rejected
        first, second = ([place >= pair.prompt_tokens for place in range(len(side))] for side in sides)
        faults = pair_faults(name, *sides, tokenizer, context, (first, second) if answers else None)
        masks = (first, second) if answers else ([*nothing(side)[1:], True] for side in sides)
        return list(zip(sides, masks, strict=True)), faults

    batches = [path for role, path in sources.items() if role.startswith("comparisons")]
    return _collect(((row["id"], row) for row in read_comparison_rows(batches)), look)


def lint_prompts(dialogs: Path, tokenizer: Tokenizer, context: int, max_new_tokens: int) -> Findings:
    """Nothing of a prompt is trained; what is sampled behind it will be."""

    def look(name: str, row: dict[str, Any]) -> tuple[list[Row], list[Fault]]:
        tokens = encode_prompt(dialog_from_json(row["dialog"]), tokenizer)
        return [(tokens, nothing(tokens))], prompt_faults(name, tokens, tokenizer, context, max_new_tokens)

    return _collect(((row["id"], row) for row in read_prompt_rows(dialogs, "train")), look)


def _collect(
    items: Iterable[tuple[str, Item]], look: Callable[[str, Item], tuple[list[Row], list[Fault]]]
) -> Findings:
    findings = Findings()
    for name, item in items:
        try:
            rows, faults = look(name, item)
        except DataError as error:  # the template takes no such turns, or no such text
            rows, faults = [], [Fault("template", name, 0, str(error))]
        findings.add(name, rows, faults)
    return findings


def complaint(findings: Findings, too_long_share: float) -> str:
    """Return why a stage must not start on these, "" if it may."""
    if findings.faulty:
        told = "; ".join(f"{fault.row}: {fault.sentence}" for fault in findings.faults[:FAULTS_TOLD])
        share = f"{findings.faulty:,} of {findings.looked_at:,}"
        return f"{share} would train the wrong thing ({told}). Correct them"
    left_out = findings.counts["too long"]
    if left_out > too_long_share * findings.looked_at:
        first = findings.too_long[0]
        return (
            f"{left_out:,} of {findings.looked_at:,} are too long for the model's context "
            f"({first.row}: {first.sentence}). Shorten them, or raise runtime.too_long_share, now "
            f"{too_long_share:g}"
        )
    return ""


def page(job: Job, findings: Findings, tokenizer: Tokenizer) -> str:
    """Return the report as Markdown; what comes from data is escaped."""
    made_from = ", ".join(f"{role} `{name[:30]}`" for role, name in job.parents.items())
    counts = "".join(f"| {kind} | {count:,} |\n" for kind, count in findings.counts.most_common())
    shown = [escaped(f"{f.row}, token {f.place}: {f.sentence}") for f in findings.faults + findings.too_long]
    sample = [
        f"{escaped(name)}\n\n" + "\n".join(f"<pre>{render(*row, tokenizer)}</pre>" for row in rows)
        for name, rows in findings.sample
    ]
    parts = [
        f"## Loss masks of {escaped(job.label)}",
        f"{findings.looked_at:,} checked, from {made_from}: {findings.tokens:,} tokens, "
        f"{findings.trained:,} trained.",
        f"| fault | how many |\n|---|---|\n{counts.rstrip() or '| none | 0 |'}",
        "\n".join(f"- {line}" for line in shown),
        f"## {len(sample)} of them\n\nTrained tokens are marked; · is a space.",
        *sample,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def publish(job: Job, markdown: str, runtime: Runtime, failed: bool) -> Path:
    """Write the report below `home` and show it in MLflow and Prefect; return where it is."""
    name = "-".join(["loss-masks", *re.findall("[a-z0-9]+", job.label.lower())])
    path = runtime.home / "loss-masks" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, markdown.encode())
    tracking = tracker(runtime)
    run_id = runtime.parent_run or start_run(job, runtime, tracking)
    tracking.log_file(run_id, path, "loss-masks")
    if failed and not runtime.parent_run:
        tracking.give_up(run_id, "FAILED")
    create_markdown_artifact(key=name, markdown=markdown, description=f"Loss masks of {job.label}")
    return path
