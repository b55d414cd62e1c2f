import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llama2_core.training.cross_entropy import CHUNK_BYTES, IGNORED, fused_cross_entropy

N, D, V = 37, 16, 50


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """States, output weights and targets, a third of them not counted; logits wide enough to matter."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator)
    targets[::3] = IGNORED
    return hidden, weight, targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    logits = F.linear(hidden.float(), weight.float())
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five positions a chunk."""
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 5 * 4 * V)


def test_by_hand() -> None:
    """Logits 0 and ln 3 are probabilities 1/4 and 3/4; their gradient is these less one for the target."""
    hidden = torch.tensor([[1.0], [1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    total, losses = fused_cross_entropy(hidden, weight, torch.tensor([1, 0, IGNORED]))
    torch.testing.assert_close(losses, torch.tensor([math.log(4 / 3), math.log(4), 0.0]))
    torch.testing.assert_close(total.item(), losses.sum().item())
    (2 * total).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    slope = 2 * math.log(3)
    torch.testing.assert_close(hidden.grad, torch.tensor([[-slope / 4], [slope * 3 / 4], [0.0]]))
    torch.testing.assert_close(weight.grad, torch.tensor([[2 * (1 / 4 - 3 / 4)], [2 * (3 / 4 - 1 / 4)]]))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torchs_in_value_and_gradients(smoothing: float) -> None:
    hidden, weight, targets = drawn()
    expected = reference(hidden, weight, targets, smoothing)
    expected_gradients = torch.autograd.grad(3 * expected.sum(), (hidden, weight))
    total, losses = fused_cross_entropy(hidden, weight, targets, smoothing)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-6, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(3 * total, (hidden, weight)), expected_gradients, strict=True
    ):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_is_as_near_as_torchs(autocast: bool) -> None:
    """Of weights in bfloat16, and under autocast, where weights and their gradient stay float32."""
    hidden, weight, targets = drawn(torch.float32 if autocast else torch.bfloat16)
    exact = torch.autograd.grad(reference(hidden, weight, targets).sum(), (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = F.linear(hidden, weight)
        theirs = torch.autograd.grad(F.cross_entropy(logits.float(), targets), (hidden, weight))
        total, _ = fused_cross_entropy(hidden, weight, targets)
        ours = torch.autograd.grad(total, (hidden, weight))
    assert total.dtype == torch.float32
    for own, torchs, true in zip(ours, theirs, exact, strict=True):
        assert own.dtype == hidden.dtype
        noise = (torchs * int((targets != IGNORED).sum()) - true).norm()
        assert (own - true).norm() < 1.5 * noise


def test_logits_of_any_size_are_safe() -> None:
    hidden, weight, targets = drawn()
    with torch.no_grad():
        hidden.mul_(1e4)
    total, losses = fused_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(losses, reference(hidden, weight, targets).detach())
    (slope,) = torch.autograd.grad(total, hidden)
    assert slope.isfinite().all()


def test_only_what_is_wanted_gets_a_gradient() -> None:
    hidden, weight, targets = drawn()
    total, _ = fused_cross_entropy(hidden, weight.detach(), targets)
    total.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        unlearned, _ = fused_cross_entropy(hidden, weight, targets)
    assert not unlearned.requires_grad
    torch.testing.assert_close(unlearned, total.detach())
    assert not fused_cross_entropy(hidden.detach(), weight.detach(), targets)[0].requires_grad


@pytest.mark.parametrize("positions", [0, N])
def test_nothing_counted_is_exactly_zero(positions: int) -> None:
    hidden, weight, targets = drawn()
    total, losses = fused_cross_entropy(hidden[:positions], weight, targets[:positions].fill_(IGNORED))
    total.backward()
    assert total == 0
    assert losses.tolist() == [0.0] * positions
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.count_nonzero() == weight.grad.count_nonzero() == 0


def test_going_backward_twice_is_refused() -> None:
    total, _ = fused_cross_entropy(*drawn())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


class Largest(TorchDispatchMode):
    """Watches for the largest tensor that any operation returns, in elements."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_the_logits_of_all_positions_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 positions of the real vocabulary, 64 a chunk: nothing is larger than a chunk."""
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 64 * 32000 * 4)
    positions, vocabulary = 1024, 32000
    hidden = torch.randn(positions, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    with Largest() as ours:
        fused_cross_entropy(hidden, weight, torch.zeros(positions, dtype=torch.long))[0].backward()
    assert ours.elements == 64 * vocabulary
    with Largest() as theirs:
        reference(hidden, weight, torch.zeros(positions, dtype=torch.long)).sum().backward()
    assert theirs.elements == positions * vocabulary


def with_half_the_vocabulary(results: Path) -> None:
    """What each of two processes runs."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    CHUNK_BYTES["cpu"] = 5 * 4 * V // 2
    hidden, weight, targets = drawn()
    first = rank * V // 2
    part = weight.detach()[first : first + V // 2].clone().requires_grad_()
    for smoothing in (0.0, 0.1):
        total, losses = fused_cross_entropy(hidden, part, targets, smoothing, dist.group.WORLD, first)
        gradients = torch.autograd.grad(2 * total, (hidden, part))
        torch.save([total.detach(), losses, *gradients], results / f"{smoothing}-{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_vocabulary_cut_over_two_processes_equals_the_whole(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, __file__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hidden, weight, targets = drawn()
    for smoothing in (0.0, 0.1):
        total, losses = fused_cross_entropy(hidden, weight, targets, smoothing)
        of_hidden, of_weight = torch.autograd.grad(2 * total, (hidden, weight))
        for rank, half in enumerate(of_weight.chunk(2)):
            found = torch.load(tmp_path / f"{smoothing}-{rank}")
            torch.testing.assert_close(found, [total.detach(), losses, of_hidden, half])


if __name__ == "__main__":
    with_half_the_vocabulary(Path(sys.argv[1]))
