"""What the worker does in the comparisons stage: two models answer, an annotator compares. Llama 2 section 3.2.1."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from llama2_core.config import GRADES
from llama2_core.errors import ConfigError
from llama2_core.generate import Request
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy
from storage.schemas import COMPARISONS, write_table
from tasks.annotators import Annotator, Verdict
from tasks.chat_server import ChatServer
from tasks.judge import Judge
from tasks.recipes import ComparisonsRecipe, JudgeRecipe, PeopleRecipe, SimulatedRecipe
from tasks.sampling_stages import in_chunks, sample
from tasks.simulated_annotator import SimulatedAnnotator, safety_bin
from tasks.stage import Stage
from tasks.tables import Prompt, dialog_to_json, held_out_draw, measure, read_prompts

JUDGED_AT_ONCE = 8


def comparisons(stage: Stage) -> dict:
    """Write the batch; what is equal, or what the annotator does not decide, is left out."""
    recipe = ComparisonsRecipe.model_validate(stage.recipe)
    models = {role: load_policy(stage.parents[role]) for role in ("newest", "other")}
    tokenizer = models["newest"][1]
    prompts = read_prompts(stage.parents["dialogs"], "train", tokenizer)
    random.Random(derive_seed(stage.seed, "prompts", recipe.batch)).shuffle(prompts)

    judge = annotator_of(recipe)

    def compare(prompt: Prompt, newest: str, other: str) -> dict | None:
        seed = derive_seed(stage.seed, "annotate", recipe.batch, prompt.id)
        verdict = judge.compare(prompt, newest, other, seed)
        return verdict and _compared(stage, recipe, judge, verdict, prompt, newest, other, tokenizer)

    def work(chunk: Sequence[Prompt]) -> list[dict]:
        answers = {}
        for (role, (model, _)), temperature in zip(models.items(), recipe.temperatures, strict=True):
            names = ("compare", recipe.batch, role)
            config = recipe.sampling.at(temperature)
            asks = [Request(p.tokens, derive_seed(stage.seed, *names, p.id), config) for p in chunk]
            answers[role] = sample(stage, model, tokenizer, asks)
        pairs = zip(chunk, answers["newest"], answers["other"], strict=True)
        with ThreadPoolExecutor(JUDGED_AT_ONCE) as threads:  # a language model judges several
            compared = threads.map(
                lambda pair: compare(*pair), [pair for pair in pairs if pair[1] != pair[2]]
            )
            return [row for row in compared if row]

    rows = in_chunks(stage, prompts[: recipe.prompts], work)
    write_table(stage.directory / "comparisons.parquet", rows, COMPARISONS)
    grades = {grade: sum(row["grade"] == grade for row in rows) for grade in GRADES}
    bins = [row["safety_bin"] for row in rows if row["safety"]]
    wins = sum(row["chosen_model"] == "newest" for row in rows)
    return {
        "comparisons": len(rows),
        "equal_or_undecided": min(recipe.prompts, len(prompts)) - len(rows),
        "held_out": sum(row["held_out"] for row in rows),
        "grades": grades,
        "safety_bins": {name: bins.count(name) for name in sorted(set(bins))},
        "newest_chosen": wins / max(1, len(rows)),
    }


def annotator_of(recipe: ComparisonsRecipe) -> Annotator:
    match recipe.annotator:
        case SimulatedRecipe(noise=noise):
            return SimulatedAnnotator(noise)
        case JudgeRecipe(server=server):
            return Judge(ChatServer.parse(server))
        case PeopleRecipe():
            raise ConfigError("people compare on the annotation page, not in a worker")


def _compared(
    stage: Stage,
    recipe: ComparisonsRecipe,
    judge: Annotator,
    verdict: Verdict,
    prompt: Prompt,
    newest: str,
    other: str,
    tokenizer: Tokenizer,
) -> dict:
    order = ("newest", "other") if verdict.first_is_better else ("other", "newest")
    text: dict[str, str] = {"newest": newest, "other": other}
    temperature: dict[str, float] = dict(zip(("newest", "other"), recipe.temperatures, strict=True))
    safe = {"newest": verdict.first_safe, "other": verdict.second_safe}
    chosen, rejected = order
    return {
        "id": f"{recipe.batch}-{prompt.id}",
        "prompt_id": prompt.id,
        "batch": recipe.batch,
        "kind": prompt.kind,
        "safety": prompt.safety,
        "dialog": dialog_to_json(prompt.dialog),
        "chosen": text[chosen],
        "rejected": text[rejected],
        "chosen_model": chosen,
        "rejected_model": rejected,
        "chosen_temperature": temperature[chosen],
        "rejected_temperature": temperature[rejected],
        "grade": verdict.grade,
        "safety_bin": safety_bin(safe[chosen], safe[rejected]) if prompt.safety else "",
        "chosen_safe": safe[chosen],
        "rejected_safe": safe[rejected],
        "annotator": judge.name,
        "annotator_kind": judge.kind,
        "annotations": 1,
        "risk_category": prompt.facts.get("category", ""),
        "attack_vector": prompt.facts.get("attack", ""),
        "created_at": None,
        **measure(prompt.dialog, text[chosen], text[rejected], tokenizer),
        "held_out": held_out_draw(stage.seed, prompt.id) < recipe.held_out_share,
    }
