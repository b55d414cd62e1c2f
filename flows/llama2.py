"""The whole recipe, in the order of the paper's Figure 4."""

from prefect import flow

from flows.corpus import corpus, data_card, tokenizer, tokens
from flows.evaluate import evaluate
from flows.pretrain import pretrain
from flows.reward import comparisons, reward, reward_ablation, reward_report
from flows.rlhf import ppo, rejection
from flows.sft import dialogs, sft
from llama2_core.seeding import derive_seed
from tasks.evaluate import gate
from tasks.pipeline import finish_run, tracked_run
from tasks.plan import plan
from tasks.preferences import preference_tables
from tasks.recipes import EvaluationRecipe, Llama2Recipe
from tasks.report import report
from tasks.runtime import Runtime


@flow(name="llama2", flow_run_name="llama2, seed {recipe.seed}")
def llama2(recipe: Llama2Recipe = Llama2Recipe(), runtime: Runtime = Runtime()) -> str:
    """Run every stage from documents to an aligned chat model; return the path of the report."""
    plan(recipe, runtime)
    with tracked_run(recipe, runtime) as tracked:
        return run_stages(recipe, tracked)


def run_stages(recipe: Llama2Recipe, runtime: Runtime) -> str:
    """Call the stages one after the other; each is found in the store or built."""
    r, seed = recipe.rlhf, recipe.seed

    talk = dialogs(recipe.dialogs, seed, runtime)
    documents = corpus(recipe.corpus, runtime)
    vocabulary = tokenizer(recipe.tokenizer, documents, runtime)
    shards = tokens(recipe.tokens, documents, vocabulary, seed, runtime, recipe.corpus.weights)
    card = data_card(documents, shards, runtime)
    base = pretrain(recipe.pretrain, shards, vocabulary, seed, runtime)

    chat = sft(recipe.sft, base, talk, seed, runtime)
    variant_seed = derive_seed(seed, "sft variant")
    variant = sft(recipe.sft_variant, base, talk, variant_seed, runtime, "SFT variant")

    def judges(model: str, batches: list[str]) -> dict[str, str]:
        """Train both reward models on all comparisons so far."""
        return {
            "helpfulness": reward(model, batches, r.helpfulness, seed, runtime),
            "safety": reward(model, batches, r.safety, seed, runtime),
        }

    first = comparisons(chat, variant, r.first_comparisons, talk, seed, runtime)
    early = judges(chat, [first])
    early_report = reward_report(early, [first], recipe=r.reward_report, runtime=runtime)
    sampled = rejection(
        base,
        chat,
        early["helpfulness"],
        early["safety"],
        recipe=r.rejection,
        fine_tune=r.rejection_fine_tune,
        dialogs=talk,
        seed=seed,
        runtime=runtime,
    )
    second = comparisons(sampled, chat, r.second_comparisons, talk, seed, runtime)
    preference_tables(second, runtime)
    batches = [first, second]
    late = judges(chat, batches)
    variants = (
        reward_ablation(chat, batches, r.helpfulness, r.safety, r.ablation, seed, runtime)
        if r.ablation
        else {}
    )
    late_report = reward_report(late, batches, [early], variants, r.reward_report, 2, runtime)
    optimised = ppo(sampled, **late, recipe=r.ppo, dialogs=talk, seed=seed, runtime=runtime)

    models = {"base": base, "sft": chat, "rejection": sampled, "ppo": optimised}
    examined = {
        stage: evaluate(model, stage, _as_base(recipe.evaluation, stage), talk, seed, runtime)
        for stage, model in models.items()
    }
    verdict = gate(r.gate, examined, runtime)
    stages = {
        "corpus": documents,
        "tokenizer": vocabulary,
        "tokens": shards,
        "data card": card,
        "dialogs": talk,
        **models,
        "sft variant": variant,
        "comparisons 1": first,
        "comparisons 2": second,
        **{f"{domain} reward model 1": name for domain, name in early.items()},
        **{f"{domain} reward model 2": name for domain, name in late.items()},
        "reward report 1": early_report,
        "reward report 2": late_report,
        **{f"evaluation of {stage}": name for stage, name in examined.items()},
        "gate": verdict,
    }
    page = report(recipe, stages, runtime)
    finish_run(stages, page, runtime)
    return page


def _as_base(recipe: EvaluationRecipe, stage: str) -> EvaluationRecipe:
    """A base model knows no chat template."""
    return recipe.model_copy(update={"prompt_format": "completion"}) if stage == "base" else recipe
