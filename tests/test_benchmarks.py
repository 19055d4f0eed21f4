"""The benchmarks of the documents run, and what they print is what they say: ratios of ways that take turns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
