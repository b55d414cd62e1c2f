"""Costs, what would make a stage fit, and Llama 2's carbon table, by hand on 436 parameters."""

import math
import re

import pytest

from llama2_core.config import LoRAConfig, ModelConfig
from llama2_core.footprint import Network, Setup, memory
from llama2_core.planning import (
    KG_CO2_PER_KWH,
    Cluster,
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
SETUP = Setup(dtype="bfloat16", row_tokens=8, micro_rows=2, most_ranks=4)
CLUSTER = Cluster(
    memory_bytes=20_000,
    memory_bytes_per_second=1384,
    dtype="bfloat16",
    peak_flops=1e12,
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
    work = Workload(stage="x", networks=(NETWORK,), setup=with_(SETUP, ranks=2), tokens=1, flops=3.6e15)
    made = plan(work, CLUSTER)
    assert (made.hours, made.accelerator_hours, made.price) == (1, 2, 6)
    assert (made.kwh, made.kg_co2) == pytest.approx((1.2, 0.6))
    assert made.fits and not made.change
    again = work.model_copy(update={"setup": with_(work.setup, checkpointing=True)})
    assert plan(again, CLUSTER).hours == pytest.approx(4 / 3)


def test_sampling_reads_weights_and_cache_each_step() -> None:
    """872 bytes of weights and 512 of cache at 1384 bytes a second."""
    policy, setup = Network(config=CONFIG, trained=False), with_(SETUP, micro_rows=0, slots=4)
    work = Workload(stage="x", networks=(policy,), setup=setup, tokens=1, flops=0, decoded_tokens=1800)
    assert plan(work, CLUSTER).hours == 0.5


@pytest.mark.parametrize(
    ("changes", "capacity", "change"),
    [
        ({}, 10112, "halve micro_rows to 1"),
        ({"micro_rows": 1}, 9152, "turn on checkpointing"),
        ({"micro_rows": 1}, 9151, "shard over 2 ranks"),
        ({"micro_rows": 1, "dtype": "float32"}, 10112, "use bfloat16"),
        ({"micro_rows": 1}, 7495, "all together: one row at a time, checkpointing, bfloat16, 2 ranks"),
        ({"micro_rows": 1, "most_ranks": 1}, 9151, "take a smaller model: one row at a time, .*"),
        ({"micro_rows": 1}, 4000, "take a smaller model: one row at a time, .*"),
        ({"slots": 100}, 14000, "halve slots to 50"),
    ],
)
def test_the_smallest_change(changes: dict, capacity: int, change: str) -> None:
    """16 x 436 bytes of state, 272 of activations a token and 120 of logits; checkpointed 152."""
    setup = with_(SETUP, **changes)
    assert memory([NETWORK], setup).total > capacity
    assert re.fullmatch(change, smallest_change([NETWORK], setup, capacity))


def test_a_plan_says_what_does_not_fit() -> None:
    work = Workload(stage="x", networks=(NETWORK,), setup=SETUP, tokens=1, flops=1)
    made = plan(work, CLUSTER.model_copy(update={"memory_bytes": 12_000}))
    assert not made.fits
    assert made.change == "halve micro_rows to 1"
    assert made.model_dump()["memory"]["total"] == 13248


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
