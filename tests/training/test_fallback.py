"""Running out of memory: the same step in smaller pieces, and the end where no smaller piece is left."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ddspo.errors import UserError
from ddspo.families.pipeline import PipelineFamily
from ddspo.training.loop import train
from helpers.training_cases import changed, make_case, metrics_of


def limit_rows(monkeypatch: pytest.MonkeyPatch, most: int, *, backward: bool = False) -> None:
    """A device that holds `most` denoiser rows: more, and memory gives out, in the call or in its backward."""
    plain = {cls: cls.predict for cls in PipelineFamily.__subclasses__()}

    def fail(gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("simulated")

    def limited(self: Any, x_t: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output = plain[next(cls for cls in plain if isinstance(self, cls))](self, x_t, *args, **kwargs)
        if len(x_t) > most and not backward:
            raise torch.OutOfMemoryError("simulated")
        if len(x_t) > most and output.requires_grad:
            output.register_hook(fail)
        return output

    for cls in plain:
        monkeypatch.setattr(cls, "predict", limited)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "pytorch_lora_weights.safetensors")


def last_state(output: Path) -> dict[str, torch.Tensor]:
    """Parameters and optimizer state at the end."""
    folder = output / "checkpoints" / "step-000004"
    return load_file(folder / "trained.safetensors") | load_file(folder / "optimizer.safetensors")


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_does_not_fit_is_taken_in_halves(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backward: bool,
) -> None:
    recipe, pairs = make_case(folder, micro_batch_pairs=1)
    train(recipe, pairs, tmp_path / "small")
    wide, _ = make_case(folder, micro_batch_pairs=4, checkpoint_every_steps=1)
    with monkeypatch.context() as patch:
        limit_rows(patch, 2 if backward else 3, backward=backward)
        train(wide, pairs, tmp_path / "fallen")
    told = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert [line.split("with ")[1].split(" pairs")[0] for line in told] == ["4", "2"]
    for name, tensor in weights(tmp_path / "small").items():
        torch.testing.assert_close(weights(tmp_path / "fallen")[name], tensor, rtol=1e-3, atol=1e-6)
    rows, same = metrics_of(tmp_path / "fallen"), metrics_of(tmp_path / "small")
    assert [row["micro_batch_pairs"] for row in rows] == [1] * 4
    assert "micro_batch_pairs" not in same[0]
    assert [row["network_evaluations"] for row in rows] == [row["network_evaluations"] for row in same]


def test_resuming_keeps_the_size_that_fits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddspo.training import loop

    recipe, pairs = make_case(folder, micro_batch_pairs=4, checkpoint_every_steps=1)
    with monkeypatch.context() as patch:
        limit_rows(patch, 6)
        train(recipe, pairs, tmp_path / "whole")
        plain = loop.train_step

        def stopping(run: Any, step: int, **options: Any) -> Any:
            if step == 2:
                raise KeyboardInterrupt
            return plain(run, step, **options)

        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, pairs, tmp_path / "cut")
    train(recipe, pairs, tmp_path / "cut")  # the limit is gone, the size stays
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "cut")[name], tensor)


def test_when_one_pair_does_not_fit_the_mend_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, micro_batch_pairs=2)
    limit_rows(monkeypatch, 1)
    with pytest.raises(UserError, match="out of memory.*gradient_checkpointing"):
        train(recipe, pairs, tmp_path / "run")


def test_a_micro_batch_that_is_part_of_the_objective_is_not_halved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, micro_batch_pairs=4, max_steps=1)
    limit_rows(monkeypatch, 6)
    kto = changed(recipe, objective={"name": "kto", "beta": 1000.0}, target={"source": "forward_noise"})
    with pytest.raises(UserError, match="out of memory at .* = 4; set training.gradient_checkpointing.*another run"):
        train(kto, pairs, tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {"name": "adafactor", "learning_rate": 1e-3}},
        {"optimizer": {"name": "adamw_8bit", "learning_rate": 1e-3}, "lora": {"rank": 128}},
        {
            "optimizer": {"name": "adamw_8bit", "learning_rate": 1e-3},
            "parameters": "full",
            "trained_dtype": "bf16",
            "mixed_precision": "bf16",
        },
    ],
    ids=["adafactor", "8 bit, LoRA", "8 bit, full in bf16"],
)
def test_every_optimizer_resumes_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    from ddspo.training import loop

    recipe, pairs = make_case(folder, **change)
    train(recipe, pairs, tmp_path / "whole")
    plain = loop.train_step

    def stopping(run: Any, step: int, **options: Any) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return plain(run, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, pairs, tmp_path / "cut")
    train(recipe, pairs, tmp_path / "cut")
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    whole, cut = (last_state(tmp_path / name) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_network_that_does_not_compile_is_told_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise ImportError("kernels.so: file too short")  # what a run that was killed while it compiled leaves behind

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    recipe, pairs = make_case(folder, compile=True)
    with pytest.raises(UserError, match="training.compile.*file too short.*TORCHINDUCTOR_CACHE_DIR"):
        train(recipe, pairs, tmp_path / "run")


def test_other_errors_are_not_the_compilers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("ddspo.training.loop.train_step", broken)
    recipe, pairs = make_case(folder)
    with pytest.raises(RuntimeError, match="a bug"):
        train(recipe, pairs, tmp_path / "run")
