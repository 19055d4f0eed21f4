"""A preference set becomes a pairs folder: true latents with their true sizes, and one size a batch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.pairs.import_pairs import ImportSettings, import_pairs
from ddspo.pairs.pictures import prepare_pair
from ddspo.pairs.store import PairStore
from ddspo.training.data import Batches
from ddspo.training.told import size_ids
from helpers.import_cases import SMALL, recipe
from helpers.preference_sets import SQUARE, TALL, WIDE, mixed_rows, row, write_parquet

BUCKETS = [(64, 64)]


def test_latents_are_those_of_the_pictures_and_rows_tell_the_truth(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]]
) -> None:
    rows = mixed_rows()
    source = write_parquet(tmp_path / "set.parquet", rows)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert (summary.rows, summary.pairs, summary.skipped) == (12, 12, {})
    assert summary.sizes == {"8x8": 4, "6x10": 4, "10x6": 4}
    store = PairStore(tmp_path / "pairs")
    assert len(store) == 12 and not store.one_shape and store.is_imported
    by_prompt = {told["prompt"]: number for number, told in enumerate(store.rows)}
    for number, wanted in enumerate(rows):
        place = by_prompt[f"a cat {number}"]
        win, lose = ("jpg_0", "jpg_1") if wanted["label_0"] == 1 else ("jpg_1", "jpg_0")
        pair = prepare_pair(wanted[win], wanted[lose], sizes, flipped=False, max_upscale=2)
        read = store.read([place])
        for side, picture in ((read.win, pair.win), (read.lose, pair.lose)):
            expected = family.encode_images(picture[None].float() / 255)
            torch.testing.assert_close(side, expected, rtol=1e-4, atol=1e-4)
        told = store.rows[place]
        width, height = (SQUARE, WIDE, TALL)[number % 3]
        assert told["original_win_px"] == told["original_lose_px"] == [height, width]
        assert told["height_px"] // 8 == store.shape_of(place)[1] and told["degraded_prompt"] is None
    wide = size_ids([store.rows[by_prompt["a cat 1"]], store.rows[by_prompt["a cat 2"]]])
    assert wide is not None
    assert wide.tolist() == [[48, 96, 0, 8, 48, 80], [80, 40, 8, 0, 80, 48]]


def test_size_conditioning_of_an_uneven_pair_is_that_of_the_smaller_picture() -> None:
    told = {
        "height_px": 64,
        "width_px": 64,
        "original_win_px": [200, 100],
        "crop_win_px": [32, 0],
        "original_lose_px": [90, 120],
        "crop_lose_px": [0, 11],
    }
    ids = size_ids([told])
    assert ids is not None and ids.tolist() == [[90, 120, 0, 11, 64, 64]]
    assert size_ids([told, {"prompt": "made here"}]) is None


def test_flips_are_the_same_on_both_sides_about_half_and_stateless(tmp_path: Path, family: Any) -> None:
    rows, settings = [row(n) for n in range(24)], ImportSettings(flip=True, batch_pairs=4, rows_per_part=8)
    for name, order in (("a", rows), ("b", rows[::-1])):
        source = write_parquet(tmp_path / f"{name}.parquet", order)
        import_pairs(str(source), tmp_path / name, recipe(family), settings, family=family)
    flips = [{told["prompt"]: told["flipped"] for told in PairStore(tmp_path / name).rows} for name in "ab"]
    assert flips[0] == flips[1]
    assert 6 <= sum(flips[0].values()) <= 18
    store = PairStore(tmp_path / "a")
    for flipped in (False, True):
        place = next(n for n, told in enumerate(store.rows) if told["flipped"] is flipped)
        wanted = rows[int(store.rows[place]["prompt"].split()[-1])]
        pair = prepare_pair(wanted["jpg_0"], wanted["jpg_1"], BUCKETS, flipped=flipped, max_upscale=2)
        for side, picture in ((store.read([place]).win, pair.win), (store.read([place]).lose, pair.lose)):
            torch.testing.assert_close(side, family.encode_images(picture[None].float() / 255), rtol=1e-4, atol=1e-4)


def test_latents_keep_their_numbers_and_precision(tmp_path: Path, family: Any) -> None:
    from safetensors.torch import save_file

    folder, generator = tmp_path / "published", torch.Generator().manual_seed(0)
    (folder / "latents").mkdir(parents=True)
    latents, rows = [], []
    for number, shape in enumerate([(4, 8, 8), (4, 8, 16), (4, 8, 8)]):
        latents.append([torch.randn(shape, generator=generator).half() for _ in range(2)])
        for side, latent in zip(("", "_neg"), latents[-1], strict=True):
            save_file({"latent": latent}, folder / "latents" / f"{number}{side}.safetensors")
        names = {"pos_file": f"{number}.safetensors", "neg_file": f"{number}_neg.safetensors"}
        rows.append({"id": str(number), "prompt": f"a cat {number}", "neg_prompt": "cat", **names})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = import_pairs(str(folder), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert summary.sizes == {"8x8": 2, "8x16": 1} and summary.with_degraded_prompt == 3
    store = PairStore(tmp_path / "pairs")
    for number, told in enumerate(store.rows):
        wanted = latents[int(told["prompt"].split()[-1])]
        read = store.read([number])
        assert torch.equal(read.win[0], wanted[0].float()) and torch.equal(read.lose[0], wanted[1].float())
        assert size_ids([told]) is None
    size = sum(path.stat().st_size for path in (tmp_path / "pairs").glob("*.safetensors"))
    assert size < 2 * sum(pair[0].nbytes * 2 for pair in latents)


def test_numbers_that_are_not_finite_end_the_import_in_one_line(
    tmp_path: Path, family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(0)]))
    monkeypatch.setattr(type(family), "encode_images", lambda self, images: torch.full((2, 4, 8, 8), torch.nan))
    with pytest.raises(UserError, match="not finite for a pair between set.parquet, row 1"):
        import_pairs(source, tmp_path / "pairs", recipe(family), SMALL, family=family)


def test_the_autoencoder_of_a_half_precision_model_is_not_half(tmp_path: Path, family: Any) -> None:
    half = load_family(str(family.base), dtype="fp16")
    source = str(write_parquet(tmp_path / "set.parquet", [row(0), row(1)]))
    import_pairs(source, tmp_path / "half", recipe(half), SMALL, family=half)
    import_pairs(source, tmp_path / "full", recipe(family), SMALL, family=family)
    ours, exact = (PairStore(tmp_path / name).read([0, 1]).win for name in ("half", "full"))
    assert torch.equal(ours, exact.half().float())  # rounded once, at the end
    assert not torch.equal(ours, exact)


class Texts:
    """A table of texts that are their own embedding."""

    def lookup(self, prompts: list[str]) -> Any:
        from ddspo.tensors import Conditioning

        return Conditioning({"prompt_embeds": torch.tensor([[float(len(prompt))] for prompt in prompts])})


def test_micro_batches_have_one_size_and_cover_the_global_batch(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]]
) -> None:
    source = write_parquet(tmp_path / "set.parquet", mixed_rows())
    import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    store, table, seen = PairStore(tmp_path / "pairs"), Texts(), []
    training = {"global_batch_pairs": 8, "micro_batch_pairs": 4}
    settings = recipe(family, target={"source": "forward_noise"}, training=training)
    for processes in (1, 2):
        noises: Counter[float] = Counter()
        for rank in range(processes):
            batches: Any = Batches(
                settings,
                store,
                table,  # type: ignore[arg-type]
                family.noise_path,
                device=torch.device("cpu"),
                rank=rank,
                processes=processes,
            )
            for step in range(3):
                micros = list(batches.micro_batches(step))
                assert [micro.is_last for micro in micros] == [False] * (len(micros) - 1) + [True]
                assert sum(len(micro.weight) for micro in micros) == 8 // processes
                for micro in micros:
                    assert micro.pairs.noise.shape == micro.pairs.x_0.win.shape == micro.pairs.x_0.lose.shape
                    ids = micro.pairs.prompt.tensors["size_ids"]
                    assert (ids[:, 4] == 8 * micro.pairs.noise.shape[2]).all()
                    assert (ids[:, 5] == 8 * micro.pairs.noise.shape[3]).all()
                    noises.update(round(float(noise), 5) for noise in micro.pairs.noise.flatten(1).sum(1))
        seen.append(noises)
    assert seen[0] == seen[1] and len(seen[0]) == 24
