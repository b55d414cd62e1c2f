"""The plan of a whole profile: every stage that trains or samples, before its data is there. No torch.

Rows that data will fill are counted full, a dialog to a row and every row as long as the context: what is
said is the most that a stage can take. Evaluation, and all that needs no accelerator, is left out.
"""

from dataclasses import dataclass
from math import ceil

from llama2_core.config import ModelConfig
from llama2_core.footprint import Network, Setup
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
            setup=self._training(loop.rows, row_tokens),
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
            setup=self._training(recipe.rows, self.context),
            tokens=tokens,
            updates=ceil(dialogs * recipe.epochs / recipe.rows),
            flops=tokens * training_flops(network, self.context),
            bound=f"at most {dialogs:,} dialogs, a row each",
        )

    def reward(self, stage: str, recipe: RewardRecipe, pairs: int) -> Workload:
        network = Network(config=self.model, scalar=True)
        tokens = 2 * pairs * recipe.epochs * self.context
        return Workload(
            stage=stage,
            networks=(network,),
            setup=self._training(recipe.rows, 2 * self.context),
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
            setup=self._one_process(),
            tokens=tokens,
            flops=tokens * forward_flops(policy, self.context),
            decoded_tokens=2 * ceil(prompts / self.execution.slots) * recipe.sampling.max_new_tokens,
            bound=f"at most {2 * prompts:,} answers, as long as the context",
        )

    def samples(self, recipe: RejectionRecipe, prompts: int) -> Workload:
        policy = Network(config=self.model, trained=False)
        judge = Network(config=self.model, scalar=True, trained=False)
        answers = prompts * recipe.samples
        networks = (policy, judge, judge)
        return Workload(
            stage="rejection samples",
            networks=networks,
            setup=self._one_process(),
            tokens=answers * self.context,
            flops=answers * self.context * sum(forward_flops(network, self.context) for network in networks),
            decoded_tokens=ceil(answers / self.execution.slots) * recipe.sampling.max_new_tokens,
            bound=f"at most {answers:,} answers, as long as the context",
        )

    def ppo(self, recipe: PPORecipe) -> Workload:
        """Five models: policy and value model learn, reference and two reward models judge."""
        ppo, held_out = recipe.ppo, recipe.held_out_prompts
        learners = (Network(config=self.model), Network(config=self.model, scalar=True))
        judges = tuple(network.model_copy(update={"trained": False}) for network in learners)
        networks = (*learners, *judges, judges[1])
        looks = 1 + ceil(ppo.iterations / ppo.evaluate_every)
        learned, looked = ppo.iterations * ppo.batch_rows, looks * held_out
        read = forward_flops(learners[0], self.context)  # while sampling; then every model reads the rows
        read += sum(forward_flops(network, self.context) for network in networks)
        update = sum(training_flops(network, self.context) for network in learners)
        batches = ppo.iterations * ceil(ppo.batch_rows / self.execution.slots) + looks * ceil(
            held_out / self.execution.slots
        )
        micro_rows = min(ppo.micro_rows, ppo.mini_batch_rows)
        return Workload(
            stage="PPO",
            networks=networks,
            setup=self._one_process(micro_rows),
            tokens=learned * self.context,
            updates=ppo.iterations * ppo.batch_rows // ppo.mini_batch_rows,
            flops=self.context * ((learned + looked) * read + learned * update),
            decoded_tokens=batches * recipe.sampling.max_new_tokens,
            bound=f"at most {ppo.iterations:,} iterations, answers as long as the context",
        )

    def _training(self, rows: int, row_tokens: int) -> Setup:
        ranks = min(self.cluster.accelerators, rows)  # the others would have nothing to do
        return Setup(
            dtype=self.cluster.dtype,
            row_tokens=row_tokens,
            micro_rows=min(self.execution.micro_rows, ceil(rows / ranks)),
            ranks=ranks,
            most_ranks=rows,
            checkpointing=self.execution.activation_checkpointing,
        )

    def _one_process(self, micro_rows: int = 0) -> Setup:
        """Sampling and PPO are not spread."""
        return Setup(
            dtype=self.cluster.dtype,
            row_tokens=self.context,
            micro_rows=micro_rows,
            slots=self.execution.slots,
            checkpointing=self.execution.activation_checkpointing and micro_rows > 0,
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
