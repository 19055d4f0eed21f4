"""The benchmarks of the documents run, and what they print is what they say: ratios of ways that take turns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("step", ["--base", "tinyscenes", "--global-batch-pairs", "4", "--micro-batch-pairs", "2"]),
        ("families", ["--families", "sd", "--threads", "1", "--micro-batch-pairs", "1", "--global-batch-pairs", "2"]),
    ],
)
def test_a_benchmark_of_steps_runs(script: str, own: list[str], tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *own, "--repeats", "3", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    if script == "families":
        seconds, told = result["families"]["sd"]["seconds"], result["families"]["sd"]["ratios"]["ours/floor"]
    else:
        seconds, told = result["seconds"], result["times_the_floor"]["ours"]
    assert set(seconds) == {"floor", "ours", "published"} and all(len(values) == 3 for values in seconds.values())
    # Every repeat is compared with its own floor, not medians with one another.
    ratios = [ours / floor for ours, floor in zip(seconds["ours"], seconds["floor"], strict=True)]
    assert told["median"] == pytest.approx(sorted(ratios)[1])


@pytest.mark.slow
def test_the_benchmark_of_drawing_runs(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    small = ["--pairs", "2", "--batch-images", "4", "--steps", "2", "--repeats", "3", "--threads", "1"]
    command = [sys.executable, str(BENCHMARKS / "drawing.py"), *small, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    seconds = result["seconds"]
    assert all(len(values) == 3 for values in seconds.values())
    for name, floor in (("ours", "floor"), ("diffusers", "floor"), ("pictures", "decoded")):
        ratios = [a / b for a, b in zip(seconds[name], seconds[floor], strict=True)]
        assert result["ratios"][f"{name}/{floor}"]["median"] == pytest.approx(sorted(ratios)[1])


@pytest.mark.slow
def test_true_sizes_counts_what_the_arrangements_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD 1.5: its published size; with full weights 9F of 10F and two readings of a prompt."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    sizes = benchmark("true_sizes")
    counted = sizes.count(sizes.CHECKPOINTS["sd15"])
    assert counted.denoiser == 859_520_964
    ours, published = counted.operations("full")
    assert (ours, published) == (9 * counted.forward, 10 * counted.forward + 2 * counted.text)
    # A LoRA's base needs the gradient of its inputs, as many operations as the forward, and none of its weights.
    assert counted.forward < counted.lora_backward < 1.2 * counted.forward
    held, holds = counted.weights("lora")
    assert held == 2 * counted.denoiser + 4 * counted.adapters
    assert holds - held == 2 * (counted.denoiser + counted.encoders + counted.autoencoder)


@pytest.mark.slow
def test_published_networks_have_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of parameters as the checkpoints' own files have them; about as many tokens as an encoder has rows."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    published = benchmark("published")
    clip_l, clip_g, t5, gemma = 123_060_480, 694_659_840, 4_762_310_656, 2_614_341_888
    projection = 768 * 768
    expected = {
        "sd15": (859_520_964, [clip_l]),
        "sdxl": (2_567_463_684, [clip_l, clip_g]),
        "sd3": (2_028_328_000, [clip_l + projection, clip_g, t5]),
        "sana": (591_747_872, [gemma]),
        "flux": (11_901_408_320, [clip_l, t5]),
    }
    for name, checkpoint in published.CHECKPOINTS.items():
        with torch.device("meta"):
            made = [checkpoint.denoiser(), *(encoder.make() for encoder in checkpoint.encoders)]
        denoiser, *encoders = [sum(parameter.numel() for parameter in network.parameters()) for network in made]
        assert (denoiser, encoders) == expected[name]
    for encoder in {
        encoder.tokenizer: encoder for c in published.CHECKPOINTS.values() for encoder in c.encoders
    }.values():
        with torch.device("meta"):
            rows = encoder.make().config.vocab_size
        assert 0.99 * rows < len(encoder.tokenizer()) <= rows


def test_the_peak_is_what_lives_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB that live already, twice 4 MB at once, then 4 MB that come when those are gone."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    peak = benchmark("peak")
    before = peak.bytes_alive()
    kept = torch.zeros(2_000_000)
    shapes = [torch.zeros(3_000_000, device="meta"), FakeTensorMode().from_tensor(torch.zeros(3_000_000))]

    def work() -> None:
        first = torch.ones(1_000_000)
        second = first + 1
        del first, second
        torch.ones(1_000_000)

    assert peak.bytes_alive() - before == kept.nbytes and len(shapes) == 2, "shapes alone have no memory"
    assert peak.peak_bytes(work) - before == pytest.approx(16e6, rel=0.01)
