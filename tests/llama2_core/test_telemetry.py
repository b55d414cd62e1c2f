"""What a run uses, in numbers worked by hand."""

import pytest
import torch

from llama2_core.training.telemetry import Speedometer, measured_peak_flops, memory_bytes

CPU = torch.device("cpu")


def test_a_row_holds_what_was_done_since_the_last_one() -> None:
    now = [10.0]
    speed = Speedometer(3e6, "float32", lambda: now[0])
    speed.add(600, 0.25)
    speed.add(1000, 0.75)
    now[0] = 14.0
    row = speed.row()
    assert row["tokens_per_second"] == 400.0  # 1,600 in 4 s
    assert row["data_wait_share"] == 0.25
    assert row["model_flops_utilisation"] == pytest.approx(1.2e9 / measured_peak_flops(CPU, "float32"))
    speed.add(50, 0.0)
    now[0] = 14.5
    assert speed.row()["tokens_per_second"] == 100.0


def test_what_was_reached_is_the_peak_where_it_is_more_than_was_measured() -> None:
    now = [0.0]
    peak = measured_peak_flops(CPU, "float32")
    speed = Speedometer(peak, "float32", lambda: now[0])
    shares = []
    for tokens in (2, 1):  # a second each
        now[0] += 1.0
        speed.add(tokens, 0.0)
        shares.append(speed.row()["model_flops_utilisation"])
    assert shares == pytest.approx([1.0, 0.5])


def test_the_peak_is_measured_once_and_draws_no_number_of_the_run() -> None:
    measured_peak_flops.cache_clear()
    before = torch.get_rng_state()
    peak = measured_peak_flops(CPU, "float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert measured_peak_flops(CPU, "float32") == peak
    assert 1e8 < peak < 1e15


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory is the GPU's there")
def test_memory_grows_by_what_is_held() -> None:
    before = memory_bytes()
    held = torch.ones(16 << 20)  # 64 MiB, touched
    assert memory_bytes() - before >= 0.9 * held.nbytes
