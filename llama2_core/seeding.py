"""Random streams by name, so that no two stages share one and none depends on batch or world size.

torch is imported where it is used: it takes seconds, and flows need the seeds alone.
"""
# ruff: noqa: PLC0415

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called `names` under the root seed.

    SHA-256 over the names: stable across processes and Python versions, unlike hash().
    """
    text = "\x1f".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, *names: str | int) -> "torch.Generator":
    """Return a CPU generator seeded by `derive_seed(root, *names)`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(root, *names))


def seed_everything(seed: int) -> None:
    """Seed torch's global streams: weight initialisation and dropout are their only users."""
    import torch

    torch.manual_seed(seed)
