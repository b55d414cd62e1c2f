"""Costs, what would make a stage fit, and Llama 2's carbon table, by hand on 436 parameters."""

import math
import re

import pytest

from llama2_core.config import LoRAConfig, ModelConfig
from llama2_core.footprint import Network, Setup, memory
from llama2_core.planning import (
    KG_CO2_PER_KWH,
    Cluster,
    PeakFlops,
    Workload,
    forward_flops,
    kwh,
    plan,
    smallest_change,
    training_flops,
)

CONFIG = ModelConfig(vocab_size=10, dim=4, n_layers=2, n_heads=2, n_kv_heads=1, multiple_of=1, max_seq_len=8)
NETWORK = Network(config=CONFIG)
LORA = LoRAConfig(rank=2, targets=("wq", "w2"))
SETUP = Setup(precision="bfloat16", row_tokens=8, micro_rows=2, most_ranks=4)
ALONE = {"micro_rows": 1, "most_ranks": 1}
CLUSTER = Cluster(
    memory_bytes=20_000,
    memory_bytes_per_second=1384,
    peak_flops=PeakFlops(float32=1e11, bfloat16=1e12),
    utilisation=0.5,
    power_watts=500,
    pue=1.2,
    price_per_hour=3,
    kg_co2_per_kwh=0.5,
)


def with_(setup: Setup, **changes: object) -> Setup:
    return setup.model_copy(update=changes)


def test_flops_by_hand() -> None:
    """N = 436; L D T = 2 x 4 x 8."""
    assert forward_flops(NETWORK, 8) == 2 * 436 + 4 * 64
    assert training_flops(NETWORK, 8) == 6 * 436 + 12 * 64
    assert training_flops(Network(config=CONFIG, lora=LORA), 8) == 4 * 436 + 12 * 64


def test_costs_by_hand() -> None:
    work = Workload(stage="x", networks=(NETWORK,), setup=with_(SETUP, ranks=2), tokens=0, flops=3.6e15)
    made = plan(work, CLUSTER)
    assert (made.hours, made.accelerator_hours, made.price) == (1, 2, 6)
    assert (made.kwh, made.kg_co2) == pytest.approx((1.2, 0.6))
    assert made.fits and not made.change
    again = work.model_copy(update={"setup": with_(work.setup, checkpointing=True)})
    assert plan(again, CLUSTER).hours == pytest.approx(4 / 3)
    exact = work.model_copy(update={"setup": with_(work.setup, precision="float32")})
    assert plan(exact, CLUSTER).hours == pytest.approx(10)


def test_training_moves_memory() -> None:
    """304 bytes a token of both layers, five times, seven when checkpointed; 36 for each of 436 parameters."""
    work = Workload(stage="x", networks=(NETWORK,), setup=SETUP, tokens=1384, flops=0)
    assert plan(work, CLUSTER).hours == pytest.approx(5 * 304 / 3600)
    again = work.model_copy(update={"setup": with_(SETUP, checkpointing=True)})
    assert plan(again, CLUSTER).hours == pytest.approx(7 * 304 / 3600)
    updates = work.model_copy(update={"tokens": 0, "updates": 1384})
    assert plan(updates, CLUSTER).hours == pytest.approx(36 * 436 / 3600)


def test_sampling_reads_weights_and_cache_each_step() -> None:
    """1744 bytes of weights and 1024 of cache at 1384 bytes a second."""
    policy, setup = Network(config=CONFIG, trained=False), with_(SETUP, micro_rows=0, slots=4)
    work = Workload(stage="x", networks=(policy,), setup=setup, tokens=1, flops=0, decoded_tokens=1800)
    assert plan(work, CLUSTER).hours == 1


@pytest.mark.parametrize(
    ("changes", "capacity", "change"),
    [
        ({}, 11184, "halve micro_rows to 1"),
        ({"micro_rows": 1}, 8480, "turn on checkpointing"),
        ({"micro_rows": 1}, 8479, "shard over 2 ranks"),
        (ALONE | {"precision": "float32", "checkpointing": True}, 8480, "use bfloat16"),
        ({"micro_rows": 1}, 6767, "all together: one row at a time, checkpointing, bfloat16, 2 ranks"),
        (ALONE, 8479, "take a smaller model: one row at a time, checkpointing, bfloat16 are not enough"),
        (ALONE | {"whole_logits": True}, 8479, "take a smaller model: one row at a time are not enough"),
        ({"micro_rows": 1}, 4499, "take a smaller model: .*"),
        ({"slots": 100}, 18704, "halve slots to 50"),
    ],
)
def test_the_smallest_change(changes: dict, capacity: int, change: str) -> None:
    """12 x 436 bytes of state and 672 of casts; of 8 tokens 2432 of activations, 1104 of loss; checkpointed 1472.

    Halved, the gradients lie beside them: 1744.
    """
    setup = with_(SETUP, **changes)
    assert memory([NETWORK], setup).total > capacity
    assert re.fullmatch(change, smallest_change([NETWORK], setup, capacity))


def test_a_plan_says_what_does_not_fit() -> None:
    work = Workload(stage="x", networks=(NETWORK,), setup=SETUP, tokens=1, flops=1)
    made = plan(work, CLUSTER.model_copy(update={"memory_bytes": 12_000}))
    assert not made.fits
    assert made.change == "halve micro_rows to 1"
    assert made.model_dump()["memory"]["total"] == 12736


TABLE_2 = {
    "7B": (184_320, 400, 31.22),
    "13B": (368_640, 400, 62.44),
    "34B": (1_038_336, 350, 153.90),
    "70B": (1_720_320, 400, 291.42),
}


def tonnes(accelerator_hours: float, watts: float) -> float:
    return kwh(accelerator_hours, watts) * KG_CO2_PER_KWH / 1000


@pytest.mark.parametrize(("hours", "watts", "printed"), TABLE_2.values(), ids=TABLE_2)
def test_carbon_is_llama_2_table_2(hours: int, watts: int, printed: float) -> None:
    """Cut to two decimals: 62.4476 is printed as 62.44, and no one factor rounds to every row."""
    assert math.floor(tonnes(hours, watts) * 100) == round(printed * 100)


def test_carbon_in_total_is_llama_2_table_2() -> None:
    assert sum(hours for hours, _, _ in TABLE_2.values()) == 3_311_616
    total = sum(tonnes(hours, watts) for hours, watts, _ in TABLE_2.values())
    assert math.floor(total * 100) == 539_00
