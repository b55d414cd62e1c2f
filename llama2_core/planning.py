"""What a stage will cost on a cluster, whether it fits, and what would make it fit. No torch."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, computed_field

from llama2_core.config import Natural, NaturalFloat, Positive, PositiveFloat, Record
from llama2_core.footprint import Device, Memory, Network, Setup, activation_bytes, memory

KG_CO2_PER_KWH = 0.4235
"""That every row of Llama 2 Table 2 implies."""
MOVES, MOVES_AGAIN = 5, 2
"""Of each byte kept for the way back: it is written and read, read on the way back, its gradient written and read;
checkpointed, it is written and read twice."""
MEASURED_UTILISATION = 0.85
"""What products of a model's shapes reach of a large square one's speed (benchmarks/planner.py)."""
UPDATE_BYTES = 36
"""Moved for a parameter in an update: gradients written, and read for their norm; then AdamW reads weight, gradient
and moments, and writes all but the gradient."""


class PeakFlops(Record):
    """Of each accelerator in one second, dense."""

    float32: PositiveFloat
    """TF32 not counted."""
    bfloat16: PositiveFloat
    """Accumulated in float32."""


class Cluster(Record):
    """Accelerators of one kind, and what they draw and cost."""

    accelerators: Positive = 1
    """How many; a process each."""
    memory_bytes: Positive
    """Of each."""
    memory_shared_by: Positive = 1
    """Processes that this memory is for together, on a CPU."""
    memory_bytes_per_second: PositiveFloat
    """How fast each reads and writes its memory: what bounds sampling, and all of training but its products."""
    device: Device = "cuda"
    """What kind."""
    peak_flops: PeakFlops
    """By the precision that a stage is trained in."""
    utilisation: Annotated[float, Field(gt=0, le=1)]
    """Share of the peak that products of matrices reach. All in all training reaches less (MFU)."""
    power_watts: PositiveFloat
    """Of each."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power of the whole data centre, as a multiple of its machines'."""
    price_per_hour: NaturalFloat
    """Of each, in your currency."""
    kg_co2_per_kwh: NaturalFloat = KG_CO2_PER_KWH
    """Of the electricity."""


class Workload(Record):
    """One stage: what it holds and what it does."""

    stage: str
    """Its name."""
    networks: tuple[Network, ...]
    """Its models; the first is the one that is made, or sampled from."""
    setup: Setup
    """How a rank holds them."""
    tokens: Natural
    """Tokens of all rows that it learns from, or reads and samples."""
    updates: Natural = 0
    """Of the optimizer."""
    flops: NaturalFloat
    """Model FLOPs of all of it."""
    decoded_tokens: Natural = 0
    """Steps of sampling, each of at most `slots` tokens."""
    bound: str = ""
    """What its size was taken from, where that is not known yet."""


class Plan(Record):
    """A stage on a cluster."""

    workload: Workload
    """The stage."""
    memory: Memory
    """Of one rank."""
    capacity_bytes: int
    """Memory of an accelerator."""
    change: str
    """The smallest change that makes it fit; empty where it does."""
    hours: float
    """From beginning to end."""
    accelerator_hours: float
    """Hours of all accelerators that it uses."""
    kwh: float
    """Electricity."""
    kg_co2: float
    """Of that electricity."""
    price: float
    """Of the accelerators that it uses."""

    @computed_field
    @property
    def fits(self) -> bool:
        return self.memory.total <= self.capacity_bytes


def plan(work: Workload, cluster: Cluster) -> Plan:
    """Return what a stage takes on a cluster. Does not ask whether the cluster has so many accelerators."""
    needed = memory(work.networks, work.setup)
    hours = hours_of(work, needed, cluster)
    accelerator_hours = hours * work.setup.ranks
    energy = kwh(accelerator_hours, cluster.power_watts, cluster.pue)
    capacity = cluster.memory_bytes // min(cluster.memory_shared_by, work.setup.ranks)
    fits = needed.total <= capacity
    return Plan(
        workload=work,
        memory=needed,
        capacity_bytes=capacity,
        change="" if fits else smallest_change(work.networks, work.setup, capacity),
        hours=hours,
        accelerator_hours=accelerator_hours,
        kwh=energy,
        kg_co2=energy * cluster.kg_co2_per_kwh,
        price=accelerator_hours * cluster.price_per_hour,
    )


def hours_of(work: Workload, needed: Memory, cluster: Cluster) -> float:
    """Return hours of products, and of moving memory for all else.

    Checkpointing runs every forward pass twice: a third more. A step of sampling reads all weights and the
    cache (Pope et al., arXiv 2211.05102, section 2).
    """
    setup = work.setup
    flops = work.flops * (4 / 3 if setup.checkpointing else 1)
    products = flops / (getattr(cluster.peak_flops, setup.precision) * cluster.utilisation)
    read = work.decoded_tokens * (work.networks[0].weight_bytes() + needed.kv_cache)
    moved = (training_traffic(work) + read) / cluster.memory_bytes_per_second
    return (products + moved) / setup.ranks / 3600


def training_traffic(work: Workload) -> float:
    """Return the bytes that all of a stage's training moves through memory, products aside."""
    one = work.setup.model_copy(update={"micro_rows": 1, "row_tokens": 1, "checkpointing": False})
    moves = MOVES + (MOVES_AGAIN if work.setup.checkpointing else 0)
    trained = [network for network in work.networks if network.trained]
    kept = work.tokens * sum(activation_bytes(network, one) for network in trained)
    return moves * kept + UPDATE_BYTES * work.updates * sum(network.trained_parameters for network in trained)


def forward_flops(network: Network, tokens: int) -> float:
    """Return FLOPs a token of reading rows of T tokens: 2 N + 4 L D T, a third of training."""
    return 2 * network.parameters + 4 * network.config.n_layers * network.config.dim * tokens


def training_flops(network: Network, tokens: int) -> float:
    """Return FLOPs a token: 6 N + 12 L D T (PaLM, arXiv 2204.02311, appendix B), N with embeddings, causality
    not deducted, nothing for checkpointing. Frozen weights get no gradient, which saves 2 N.
    """
    return 3 * forward_flops(network, tokens) - (2 * network.parameters if network.lora else 0)


def kwh(accelerator_hours: float, power_watts: float, pue: float = 1.0) -> float:
    """Return the electricity of so many hours; Llama 2 Table 2's watts have the PUE in them."""
    return accelerator_hours * power_watts * pue / 1000


def smallest_change(networks: Sequence[Network], setup: Setup, capacity_bytes: int) -> str:
    """Return the first single change that makes a stage fit; else what it takes all together."""
    for name, changed in single_changes(setup, memory(networks, setup)):
        if memory(networks, changed).total <= capacity_bytes:
            return name
    least = setup.model_copy(
        update={
            "micro_rows": min(1, setup.micro_rows),
            "micro_batches": setup.micro_batches * max(1, setup.micro_rows),
            "slots": min(1, setup.slots),
            "checkpointing": setup.adjustable,
            "precision": "bfloat16" if setup.adjustable else setup.precision,
        }
    )
    known = "one row at a time" + (", checkpointing, bfloat16" if setup.adjustable else "")
    while memory(networks, least).total > capacity_bytes:
        if 2 * least.ranks > least.most_ranks:
            return f"take a smaller model: {known} are not enough"
        least = least.model_copy(update={"ranks": 2 * least.ranks})
    return f"all together: {known}" + (f", {least.ranks} ranks" if least.ranks > 1 else "")


def single_changes(setup: Setup, needed: Memory) -> Iterator[tuple[str, Setup]]:
    """Yield the changes that a setup leaves open, the cheapest first."""
    sampling = needed.kv_cache > needed.activations + needed.loss
    if sampling and setup.slots > 1:
        yield f"halve slots to {setup.slots // 2}", setup.model_copy(update={"slots": setup.slots // 2})
    if not sampling and setup.micro_rows > 1:
        rows, batches = setup.micro_rows // 2, 2 * setup.micro_batches
        halved = setup.model_copy(update={"micro_rows": rows, "micro_batches": batches})
        yield f"halve micro_rows to {rows}", halved
    if setup.adjustable and not setup.checkpointing:
        yield "turn on checkpointing", setup.model_copy(update={"checkpointing": True})
    if (ranks := 2 * setup.ranks) <= setup.most_ranks:
        yield f"shard over {ranks} ranks", setup.model_copy(update={"ranks": ranks})
    if setup.adjustable and setup.precision == "float32":
        yield "use bfloat16", setup.model_copy(update={"precision": "bfloat16"})
