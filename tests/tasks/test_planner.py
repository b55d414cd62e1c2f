"""The plan of the default recipe (918,656 parameters, 4 layers of 128, 128 tokens a row), by hand."""

import pytest

from llama2_core.planning import Cluster, PeakFlops, Plan
from llama2_core.presets import TINY_0_9M
from tasks.planner import plans
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime

CLUSTER = Cluster(
    memory_bytes=8_000_000_000,
    memory_bytes_per_second=2e10,
    device="cpu",
    peak_flops=PeakFlops(float32=2e11, bfloat16=1e11),
    utilisation=0.3,
    power_watts=30,
    price_per_hour=0,
)
POLICY, SCALAR = 918_656, 918_784
FORWARD, SCALAR_FORWARD = (2 * n + 4 * 4 * 128 * 128 for n in (POLICY, SCALAR))


@pytest.fixture(scope="module")
def planned() -> dict[str, Plan]:
    return {each.workload.stage: each for each in plans(Llama2Recipe(), Runtime(), CLUSTER)}


def test_stages_are_the_flows(planned: dict[str, Plan]) -> None:
    assert list(planned) == [
        "pretraining",
        "SFT",
        "SFT variant",
        "comparisons 1",
        "helpfulness reward model 1",
        "safety reward model 1",
        "rejection samples",
        "rejection sampling",
        "comparisons 2",
        "helpfulness reward model 2",
        "safety reward model 2",
        "PPO",
    ]
    assert all(each.fits and each.hours > 0 for each in planned.values())


def test_pretraining(planned: dict[str, Plan]) -> None:
    work = planned["pretraining"].workload
    assert (work.updates, work.tokens, work.bound) == (1900, 1900 * 16 * 128, "")
    assert work.flops == work.tokens * 3 * FORWARD
    assert work.setup.micro_rows == 16
    moved = 5 * 4 * 2688 * 4 * work.tokens + 36 * POLICY * 1900  # 4 layers of 8 x 128 + 128 + 4 x 384
    assert planned["pretraining"].hours == pytest.approx((work.flops / 6e10 + moved / 2e10) / 3600)
    assert (work.setup.precision, work.setup.micro_batches) == ("float32", 1)
    assert planned["pretraining"].memory.weights == 4 * POLICY


def test_fine_tunings_are_bounded_by_their_dialogs(planned: dict[str, Plan]) -> None:
    """4,000 demonstrations and 2,000 best samples, a row each, two passes of 16 rows an update."""
    sft, best = planned["SFT"].workload, planned["rejection sampling"].workload
    assert (sft.updates, sft.tokens) == (500, 4000 * 2 * 128)
    assert (best.updates, best.tokens) == (250, 2000 * 2 * 128)
    assert sft.bound == "at most 4,000 dialogs, a row each"


def test_reward_models_are_bounded_by_their_prompts(planned: dict[str, Plan]) -> None:
    first, second = (planned[f"safety reward model {number}"].workload for number in (1, 2))
    assert (first.updates, first.tokens) == (75, 2400 * 2 * 128)
    assert (second.updates, second.tokens) == (150, 4800 * 2 * 128)
    assert first.flops == first.tokens * 3 * SCALAR_FORWARD
    memory = planned["safety reward model 1"].memory
    assert (memory.weights, memory.loss) == (4 * SCALAR, 0)
    assert memory.activations == 2 * planned["pretraining"].memory.activations * 32 / 16


def test_prompts_are_no_more_than_there_are() -> None:
    few = Llama2Recipe.model_validate({"dialogs": {"train_prompts": 100}})
    works = {each.workload.stage: each.workload for each in plans(few, Runtime(), CLUSTER)}
    assert works["helpfulness reward model 2"].bound.startswith("at most 200 pairs")
    assert works["rejection samples"].bound.startswith("at most 800 answers")
    assert works["rejection sampling"].updates == 13  # 100 samples, twice, 16 at once


def test_rejection_samples(planned: dict[str, Plan]) -> None:
    """2,000 prompts, 8 answers each, 128 at once, 48 tokens; a policy and two reward models."""
    made = planned["rejection samples"]
    assert made.workload.flops == 16_000 * 128 * (FORWARD + 2 * SCALAR_FORWARD)
    assert made.workload.decoded_tokens == 125 * 48
    assert made.memory.total == 4 * (POLICY + 2 * SCALAR) + made.memory.kv_cache
    assert made.memory.kv_cache == 128 * 128 * 2 * 4 * 2 * 32 * 4


def test_samples_of_a_server_take_two_reward_models(planned: dict[str, Plan]) -> None:
    engine = {"kind": "server", "server": "http://127.0.0.1:8000/v1#m"}
    recipe = Llama2Recipe.model_validate({"rlhf": {"rejection": {"engine": engine}}})
    made = next(p for p in plans(recipe, Runtime(), CLUSTER) if p.workload.stage == "rejection samples")
    assert made.workload.flops == 16_000 * 128 * 2 * SCALAR_FORWARD
    assert made.memory.total == 4 * 2 * SCALAR
    assert made.hours < planned["rejection samples"].hours


def test_ppo_holds_five_models_and_trains_two(planned: dict[str, Plan]) -> None:
    """200 iterations of 512 rows; 41 looks at 256 rows; every row is sampled and read by all five."""
    made, learned, looked = planned["PPO"], 200 * 512, 41 * 256
    read, update = 3 * FORWARD + 3 * SCALAR_FORWARD, 3 * (FORWARD + SCALAR_FORWARD)
    assert made.workload.updates == 1600
    assert made.workload.flops == 128 * ((learned + looked) * read + learned * update)
    assert made.workload.decoded_tokens == (200 * 4 + 41 * 2) * 48
    assert made.memory.weights == 4 * (2 * POLICY + 3 * SCALAR)
    assert made.memory.moments == 8 * (POLICY + SCALAR)
    assert made.memory.loss == 16 * 128 * TINY_0_9M.vocab_size * 12


def test_training_and_ppo_are_spread_and_sampling_is_not() -> None:
    four = CLUSTER.model_copy(update={"accelerators": 4})
    spread = {each.workload.stage: each for each in plans(Llama2Recipe(), Runtime(), four)}
    assert spread["pretraining"].workload.setup.micro_rows == 4
    assert spread["pretraining"].memory.weights == POLICY
    for stage in ("rejection samples", "comparisons 1"):
        assert spread[stage].workload.setup.ranks == 1
    ppo = spread["PPO"]
    assert ppo.memory.weights == 2 * POLICY + 3 * SCALAR and ppo.memory.gathered == 4 * POLICY
    assert ppo.workload.decoded_tokens == 4 * (200 + 41) * 48, "four processes with 128 slots each"


def test_ranks_are_no_more_than_rows() -> None:
    many = CLUSTER.model_copy(update={"accelerators": 1024})
    spread = {each.workload.stage: each.workload.setup for each in plans(Llama2Recipe(), Runtime(), many)}
    assert (spread["SFT"].ranks, spread["SFT"].micro_rows) == (16, 1)


def test_checkpointing_saves_activations_and_costs_time(planned: dict[str, Plan]) -> None:
    kept = {
        each.workload.stage: each
        for each in plans(Llama2Recipe(), Runtime(activation_checkpointing=True), CLUSTER)
    }
    assert kept["pretraining"].memory.activations < planned["pretraining"].memory.activations / 2
    assert kept["pretraining"].hours > planned["pretraining"].hours
    for stage in ("PPO", "comparisons 1"):  # which have none
        assert kept[stage] == planned[stage]


def test_each_stage_is_planned_in_its_own_precision() -> None:
    half = Llama2Recipe.model_validate({"sft": {"precision": "bfloat16"}})
    found = {each.workload.stage: each.workload.setup for each in plans(half, Runtime(micro_rows=4), CLUSTER)}
    assert (found["SFT"].precision, found["pretraining"].precision) == ("bfloat16", "float32")
    assert (found["SFT"].micro_rows, found["SFT"].micro_batches, found["SFT"].device) == (4, 4, "cpu")
