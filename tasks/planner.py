"""The plan of a whole profile: every stage that trains or samples, before its data is there. No torch.

Rows that data will fill are counted full, a dialog to a row and every row as long as the context: what is
said is the most that a stage can take. Evaluation, and all that needs no accelerator, is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from llama2_core.config import ModelConfig, Precision
from llama2_core.errors import ConfigError
from llama2_core.footprint import BYTES, COMPONENTS, Network, Setup
from llama2_core.planning import Cluster, Plan, Workload, forward_flops, plan, training_flops
from tasks.recipes import (
    ComparisonsRecipe,
    FineTuneRecipe,
    Llama2Recipe,
    PPORecipe,
    PretrainRecipe,
    RejectionRecipe,
    RewardRecipe,
)
from tasks.runtime import Execution

SUMS = ("hours", "kwh", "kg_co2", "price")


@dataclass(frozen=True)
class Planner:
    """What all stages of a run share."""

    model: ModelConfig
    cluster: Cluster
    execution: Execution

    @property
    def context(self) -> int:
        return self.model.max_seq_len

    def pretrain(self, recipe: PretrainRecipe, row_tokens: int) -> Workload:
        network, loop = Network(config=self.model), recipe.loop
        tokens = loop.steps * loop.rows * row_tokens
        return Workload(
            stage="pretraining",
            networks=(network,),
            setup=self._training(loop.rows, row_tokens, loop.precision),
            tokens=tokens,
            updates=loop.steps,
            flops=tokens * training_flops(network, row_tokens),
        )

    def fine_tune(self, stage: str, recipe: FineTuneRecipe, dialogs: int) -> Workload:
        network = Network(config=self.model, lora=recipe.lora, bits=recipe.base_bits)
        tokens = dialogs * recipe.epochs * self.context
        return Workload(
            stage=stage,
            networks=(network,),
            setup=self._training(recipe.rows, self.context, recipe.precision),
            tokens=tokens,
            updates=ceil(dialogs * recipe.epochs / recipe.rows),
            flops=tokens * training_flops(network, self.context),
            bound=f"at most {dialogs:,} dialogs, a row each",
        )

    def reward(self, stage: str, recipe: RewardRecipe, pairs: int) -> Workload:
        network = Network(config=self.model, scalar=True, lora=recipe.lora)
        pairs = ceil(pairs * recipe.pairs_share)
        tokens = 2 * pairs * recipe.epochs * self.context
        return Workload(
            stage=stage,
            networks=(network,),
            setup=self._training(recipe.rows, 2 * self.context, recipe.precision),
            tokens=tokens,
            updates=ceil(pairs * recipe.epochs / recipe.rows),
            flops=tokens * training_flops(network, self.context),
            bound=f"at most {pairs:,} pairs, one a prompt, as long as the context",
        )

    def comparisons(self, stage: str, recipe: ComparisonsRecipe, prompts: int) -> Workload:
        policy = Network(config=self.model, trained=False)
        tokens = 2 * prompts * self.context
        return Workload(
            stage=stage,
            networks=(policy, policy),
            setup=self._sampling(),
            tokens=tokens,
            flops=tokens * forward_flops(policy, self.context),
            decoded_tokens=2 * ceil(prompts / self.execution.slots) * recipe.sampling.max_new_tokens,
            bound=f"at most {2 * prompts:,} answers, as long as the context",
        )

    def samples(self, recipe: RejectionRecipe, prompts: int) -> Workload:
        """Where a server samples, that machine is not ours to plan."""
        policy = Network(config=self.model, trained=False)
        judge = Network(config=self.model, scalar=True, trained=False)
        answers, setup = prompts * recipe.samples, self._sampling()
        decoded = ceil(answers / self.execution.slots) * recipe.sampling.max_new_tokens
        networks = (policy, judge, judge)
        if recipe.engine.kind == "server":
            networks, decoded, setup = (judge, judge), 0, setup.model_copy(update={"slots": 0})
        return Workload(
            stage="rejection samples",
            networks=networks,
            setup=setup,
            tokens=answers * self.context,
            flops=answers * self.context * sum(forward_flops(network, self.context) for network in networks),
            decoded_tokens=decoded,
            bound=f"at most {answers:,} answers, as long as the context",
        )

    def ppo(self, recipe: PPORecipe) -> Workload:
        """Five models: policy and value model learn, reference and two reward models judge.

        With adapters, reference and helpfulness model are the learners' frozen weights.
        """
        ppo, held_out, lora = recipe.ppo, recipe.held_out_prompts, recipe.lora
        learners = tuple(Network(config=self.model, scalar=scalar, lora=lora) for scalar in (False, True))
        judges = tuple(network.model_copy(update={"trained": False, "lora": None}) for network in learners)
        networks = (*learners, judges[1]) if lora else (*learners, *judges, judges[1])
        read_by = (*learners, *judges, judges[1])
        looks = 1 + ceil(ppo.iterations / ppo.evaluate_every)
        learned, looked = ppo.iterations * ppo.batch_rows, looks * held_out
        read = forward_flops(learners[0], self.context)  # while sampling; then every model reads the rows
        read += sum(forward_flops(network, self.context) for network in read_by)
        update = sum(training_flops(network, self.context) for network in learners)
        ranks = min(self.cluster.accelerators, ppo.mini_batch_rows)
        slots = self.execution.slots * ranks  # of all of them: each samples its share
        batches = ppo.iterations * ceil(ppo.batch_rows / slots) + looks * ceil(held_out / slots)
        return Workload(
            stage="PPO",
            networks=networks,
            setup=self._sampling(ppo.mini_batch_rows, ppo.micro_rows, ranks),
            tokens=learned * self.context,
            updates=ppo.iterations * ppo.batch_rows // ppo.mini_batch_rows,
            flops=self.context * ((learned + looked) * read + learned * update),
            decoded_tokens=ranks * batches * recipe.sampling.max_new_tokens,
            bound=f"at most {ppo.iterations:,} iterations, answers as long as the context",
        )

    def _training(self, rows: int, row_tokens: int, precision: Precision) -> Setup:
        ranks = min(self.cluster.accelerators, rows)  # the others would have nothing to do
        share = ceil(rows / ranks)
        micro_rows = min(self.execution.micro_rows, share)
        return Setup(
            precision=precision,
            device=self.cluster.device,
            row_tokens=row_tokens,
            micro_rows=micro_rows,
            micro_batches=ceil(share / micro_rows),
            ranks=ranks,
            most_ranks=rows,
            checkpointing=self.execution.activation_checkpointing,
        )

    def _sampling(self, rows: int = 0, micro_rows: int = 0, ranks: int = 1) -> Setup:
        """Float32; sampling alone, which learns from no rows, is not spread."""
        share = ceil(rows / ranks)
        return Setup(
            precision="float32",
            device=self.cluster.device,
            row_tokens=self.context,
            micro_rows=min(share, micro_rows),
            micro_batches=ceil(share / micro_rows) if rows else 1,
            whole_logits=True,
            slots=self.execution.slots,
            ranks=ranks,
            most_ranks=max(1, rows),
        )


def workloads(recipe: Llama2Recipe, planner: Planner) -> list[Workload]:
    """Return the stages of `flows/llama2.py`, in its order and by its names."""
    r, most = recipe.rlhf, recipe.dialogs.train_prompts
    first, second = (min(batch.prompts, most) for batch in (r.first_comparisons, r.second_comparisons))
    sampled = min(r.rejection.prompts, most)

    def judges(pairs: int, number: int) -> list[Workload]:
        return [
            planner.reward(f"{kind.domain} reward model {number}", kind, pairs)
            for kind in (r.helpfulness, r.safety)
        ]

    demonstrations = recipe.dialogs.demonstrations
    return [
        planner.pretrain(recipe.pretrain, recipe.tokens.row_tokens - 1),
        planner.fine_tune("SFT", recipe.sft, demonstrations),
        planner.fine_tune("SFT variant", recipe.sft_variant, demonstrations),
        planner.comparisons("comparisons 1", r.first_comparisons, first),
        *judges(first, 1),
        planner.samples(r.rejection, sampled),
        planner.fine_tune("rejection sampling", r.rejection_fine_tune, sampled),
        planner.comparisons("comparisons 2", r.second_comparisons, second),
        *judges(first + second, 2),
        planner.ppo(r.ppo),
    ]


def plans(recipe: Llama2Recipe, execution: Execution, cluster: Cluster) -> list[Plan]:
    """Return the plan of every stage of a run."""
    planner = Planner(recipe.pretrain.model, cluster, execution)
    return [plan(work, cluster) for work in workloads(recipe, planner)]


def refuse_what_does_not_fit(planned: Sequence[Plan]) -> None:
    """Raise ConfigError for the stage that is furthest from fitting."""
    if beyond := [each for each in planned if not each.fits]:
        worst = max(beyond, key=lambda each: each.memory.total)
        largest = worst.memory.largest
        others = f" ({len(beyond) - 1} more stages do not fit either)" if len(beyond) > 1 else ""
        raise ConfigError(
            f"{worst.workload.stage} does not fit: it takes {gigabytes(worst.memory.total)} of "
            f"{gigabytes(worst.capacity_bytes)} GB, most of it {largest.replace('_', ' ')} "
            f"({gigabytes(getattr(worst.memory, largest))} GB); smallest change: {worst.change}{others}"
        )


def cost_rows(planned: Sequence[Plan]) -> list[list[str]]:
    """Return the titles, a row a stage, and their sums."""
    rows = [["stage", "parameters", "tokens", "updates", "FLOPs", "ranks", "hours", "kWh", "kg CO2", "price"]]
    for each in planned:
        work = each.workload
        counts = map(short, (work.networks[0].parameters, work.tokens, work.updates))
        sums = (amount(getattr(each, name)) for name in SUMS)
        rows.append([work.stage, *counts, f"{work.flops:.1e}", str(work.setup.ranks), *sums])
    if len(planned) > 1:
        rows.append(
            ["all", *[""] * 5, *(amount(sum(getattr(each, name) for each in planned)) for name in SUMS)]
        )
    return rows


def memory_rows(planned: Sequence[Plan]) -> list[list[str]]:
    """Return the titles and a row a stage, GB by component; one that no stage has is left out."""
    names = [name for name in COMPONENTS if any(getattr(each.memory, name) for each in planned)] + ["total"]
    rows = [["stage", *(name.replace("_", " ") for name in names)]]
    for each in planned:
        over = "" if each.fits else " (too much)"
        sizes = [gigabytes(getattr(each.memory, name)) for name in names]
        rows.append([each.workload.stage, *sizes[:-1], sizes[-1] + over])
    return rows


def remarks(planned: Sequence[Plan]) -> list[str]:
    """Return which stages have which precision, and what unknown sizes were taken from."""
    stages = {
        name: [p.workload.stage for p in planned if p.workload.setup.precision == name] for name in BYTES
    }
    told = [f"In {precision}: {', '.join(names)}" for precision, names in stages.items() if names]
    return told + [f"{each.workload.stage}: {each.workload.bound}" for each in planned if each.workload.bound]


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}"


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def short(count: int) -> str:
    """Return a count to three digits: 6.74B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
