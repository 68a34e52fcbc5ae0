"""The benchmark measures the sampler against the bare network and says so in one row per batch
size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from typer.testing import CliRunner

from cluster.cli import app
from kernels.bench import sampler_cost as bench
from kernels.bench import variants as bench_variants
from kernels.bench.sampler_cost import BenchCase, measure, text
from kernels.bench.variants import Variant, Wrapped, network, variants
from kernels.denoisers.guided_diffusion.unet import UNetConfig
from kernels.presets import PAPER

TINY = UNetConfig(
    image_size=32, model_channels=32, num_res_blocks=1, channel_mult=(1, 1), num_head_channels=32
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bench_variants, "SMALL", TINY)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_row_relates_the_sampler_to_the_network() -> None:
    rows = list(measure("cpu", ["guided-diffusion"], [1, 2], steps=3, repeats=2))
    assert [row.batch for row in rows] == [1, 2]
    for row in rows:
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.sampler > 0
        assert row.bare > 0
        assert (row.eps_error, row.psnr_change, row.peak_bytes, row.utilisation) == (
            0.0,
            0.0,
            None,
            None,
        )
        assert f"batch {row.batch}" in text(row)


def test_the_same_number_of_network_calls_is_timed_on_both_sides() -> None:
    plain, tile = network("guided-diffusion", "cpu")
    calls: list[int] = []

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return plain(x, t)

    case = BenchCase.build(plain, tile, 2, 4, PAPER, "cpu")
    case.evaluate(Wrapped(plain.info, counted))
    bare = sum(calls)
    calls.clear()
    case.restore(Wrapped(plain.info, counted))
    assert sum(calls) == bare == case.tile_steps == 8


def test_a_variant_answers_as_float32_does_but_for_rounding() -> None:
    plain, tile = network("guided-diffusion", "cpu")
    x = torch.randn(1, 3, tile, tile, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([5])
    last = Variant(name="channels_last", channels_last=True).wrap(plain)
    torch.testing.assert_close(last(x, t), plain(x, t), rtol=1e-4, atol=1e-4)
    half = Variant(name="bfloat16", autocast="cpu", dtype=torch.bfloat16).wrap(plain)
    difference = (half(x, t) - plain(x, t)).abs().max()
    assert 0 < difference < 0.3
    assert variants("cpu") == [Variant(name="float32")]
    assert Variant(name="float32").wrap(plain) is plain


def test_the_command_prints_json_lines_and_refuses_an_unknown_network() -> None:
    options = [
        "bench",
        "kernels",
        "--networks",
        "guided-diffusion",
        "--batches",
        "1",
        "--steps",
        "2",
        "--repeats",
        "1",
    ]
    done = CliRunner().invoke(app, [*options, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["network"] == "guided-diffusion"
    assert (
        CliRunner()
        .invoke(app, ["bench", "kernels", "--networks", "nothing", "--device", "cpu"])
        .exit_code
        == 2
    )
    assert (
        CliRunner().invoke(app, ["bench", "kernels", "--batches", "0", "--device", "cpu"]).exit_code
        == 2
    )
    assert bench.CPU_BATCHES[0] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_variants_on_a_gpu_report_memory_and_utilisation() -> None:
    rows = list(
        measure("cuda", ["builtin"], [2], steps=3, repeats=2, chosen=["float32", "bfloat16"])
    )
    assert [row.variant for row in rows] == ["float32", "bfloat16"]
    assert all(row.peak_bytes and row.utilisation for row in rows)
    assert abs(rows[1].psnr_change) < 1
