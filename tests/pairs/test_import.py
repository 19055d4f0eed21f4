"""A preference set becomes a pairs folder: true latents, one size a batch, the same result however interrupted."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.folder_lock import only_one
from ddspo.pairs import import_pairs as module
from ddspo.pairs.import_pairs import ImportSettings, import_pairs, plan_import
from ddspo.pairs.pictures import prepare_pair
from ddspo.pairs.store import PairStore
from ddspo.recipe import Recipe
from ddspo.training.data import Batches
from ddspo.training.told import size_ids
from helpers.pair_making import write_degraded
from helpers.preference_sets import SQUARE, TALL, WIDE, mixed_rows, row, write_parquet
from helpers.tiny_pipelines import tiny_sd

SMALL = ImportSettings(batch_pairs=2, rows_per_part=4, max_aspect=2.0)
BUCKETS = [(64, 64)]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_family(str(tiny_sd(tmp_path_factory.mktemp("base"))))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The tiny U-Net takes multiples of 64 px; 16 are let in here, so that there is more than one size near 64×64."""
    monkeypatch.setattr(module, "needed_multiple_px", lambda family: 16)
    return [(64, 64), (48, 80), (80, 48)]


def recipe(family: Any, **changes: Any) -> Recipe:
    return Recipe.model_validate({"model": {"base": str(family.base)}, "pairs": {"pairs_per_shard": 2}, **changes})


def contents(folder: Path) -> dict[str, Any]:
    """Every file that the settings decide; part records without their seconds."""
    told: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.name.startswith("part-"):
            told[path.name] = json.loads(path.read_text()) | {"seconds": 0}
        elif "cost" not in path.name:
            told[path.name] = path.read_bytes()
    return told


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


def test_what_cannot_be_used_is_counted(tmp_path: Path, family: Any) -> None:
    rows = [
        row(0),
        row(1, label=0.5),
        row(2, jpg_0=b"no picture"),
        row(3, (20, 20)),
        row(0),
        row(4, caption=None),
        row(5),
        row(0),
        row(0, label=0),
    ]
    source = write_parquet(tmp_path / "set.parquet", rows, group=4)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert summary.pairs == 3  # 0 and 5, and 0 judged the other way round, which is another judgment
    assert summary.skipped == {"tie": 1, "broken picture": 1, "too small": 1, "repeated": 2, "no caption": 1}
    assert summary.pairs + sum(summary.skipped.values()) == summary.rows == 9
    assert "imported 3 pairs of 9 rows in 1 sizes; left out: 1 broken picture, 1 no caption, 2 repeated" in str(summary)
    store = PairStore(tmp_path / "pairs")
    assert len(store) == len({told["id"] for told in store.rows}) == 3
    assert len(store.read(range(3)).win) == 3


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path, family: Any) -> None:
    source = write_parquet(tmp_path / "set.parquet", [row(0, label=0.5), row(1, label=0.5)])
    with pytest.raises(UserError, match=r"no pair of 2 rows can be used \(2 tie\)"):
        import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    with pytest.raises(UserError, match="not finished"):
        PairStore(tmp_path / "pairs")


class Stops:
    """A family whose autoencoder gives up at one call."""

    def __init__(self, family: Any, at: int) -> None:
        self.family, self.left = family, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def encode_images(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.family.encode_images(images)


@pytest.mark.parametrize("calls", [0, 1, 3, 5])
def test_interrupted_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]], calls: int
) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", mixed_rows()), recipe(family)
    import_pairs(str(source), tmp_path / "whole", settings, SMALL, family=family)
    stopped: Any = Stops(family, calls)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=stopped)
    with pytest.raises(UserError, match="not finished.*ddspo import"):
        PairStore(tmp_path / "torn")
    rest: Any = Stops(family, 100)
    import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=rest)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
    idle: Any = Stops(family, 0)
    import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=idle)  # nothing left to encode


def test_a_lost_shard_is_made_again(tmp_path: Path, family: Any) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", [row(n) for n in range(6)]), recipe(family)
    import_pairs(str(source), tmp_path / "pairs", settings, SMALL, family=family)
    before = contents(tmp_path / "pairs")
    victim = sorted((tmp_path / "pairs").glob("shard-*.safetensors"))[1]
    victim.unlink()
    import_pairs(str(source), tmp_path / "pairs", settings, SMALL, family=family)
    assert contents(tmp_path / "pairs") == before


def test_two_processes_share_the_parts(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", mixed_rows()), recipe(family)
    import_pairs(str(source), tmp_path / "one", settings, SMALL, family=family)
    from ddspo.processes import Process

    ranks, load, one_at_a_time = threading.local(), family.folder.load_model, threading.Lock()
    monkeypatch.setattr(module, "this_process", lambda: Process(ranks.value, 2))

    def load_model(*args: Any) -> Any:
        with one_at_a_time:  # while diffusers loads, all of Python makes modules without memory
            return load(*args)

    monkeypatch.setattr(family.folder, "load_model", load_model)

    def work(rank: int) -> None:
        ranks.value = rank
        import_pairs(str(source), tmp_path / "two", settings, SMALL, family=family)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_other_settings_are_refused(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(0)]))
    import_pairs(source, tmp_path / "pairs", recipe(family), SMALL, family=family)
    with pytest.raises(UserError, match="flip: False there, True now"):
        import_pairs(source, tmp_path / "pairs", recipe(family), ImportSettings(flip=True), family=family)


def folder_of_pictures(folder: Path, count: int) -> Path:
    for side, column in (("chosen", "jpg_0"), ("rejected", "jpg_1")):
        (folder / side).mkdir(parents=True)
        for number in range(count):
            (folder / side / f"{number}.png").write_bytes(row(number)[column])
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"a cat {number}")
    return folder


def test_a_corrected_caption_is_refused_with_the_difference(tmp_path: Path, family: Any) -> None:
    source = folder_of_pictures(tmp_path / "set", 2)
    import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    (source / "1.txt").write_text("a dog 1")
    with pytest.raises(UserError, match=r"made with other settings \(source\.captions: '\w+' there, '\w+' now\)"):
        import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)


def test_a_picture_is_read_once(tmp_path: Path, family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = folder_of_pictures(tmp_path / "set", 3), Counter[str]()
    (source / "rejected" / "2.png").write_bytes(b"")
    genuine = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.name] += path.suffix == ".png"
        return genuine(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    assert {name: count for name, count in read.items() if count} == {"0.png": 2, "1.png": 2, "2.png": 2}  # two sides
    assert (summary.pairs, summary.skipped) == (2, {"missing picture": 1})


def test_an_import_that_is_at_work_already_is_left_alone(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(0)]))
    with only_one(tmp_path / "pairs", "ddspo import"), pytest.raises(UserError, match="`ddspo import` is already at"):
        import_pairs(source, tmp_path / "pairs", recipe(family), SMALL, family=family)


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


def test_degraded_prompts_join_by_prompt(tmp_path: Path, family: Any) -> None:
    degraded = write_degraded(tmp_path / "degraded.jsonl", [("a cat 0", ["cat"]), ("a cat 2", ["a", "0"])])
    source = write_parquet(tmp_path / "set.parquet", [row(n) for n in range(3)])
    settings = ImportSettings(degraded=degraded, batch_pairs=2)
    summary = import_pairs(str(source), tmp_path / "pairs", recipe(family), settings, family=family)
    told = {row["prompt"]: row["degraded_prompt"] for row in PairStore(tmp_path / "pairs").rows}
    assert told["a cat 0"] == "cat" and told["a cat 1"] is None and told["a cat 2"] in ("a", "0")
    assert summary.with_degraded_prompt == 2


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


def test_a_plan_is_told_without_making_anything(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(n) for n in range(5)]))
    text = plan_import(source, recipe(family), ImportSettings(limit=3))
    assert text.startswith(f"3 rows of {source} in 1 parts, at most 0.00 GB in 1 sizes of about 64×64 px")
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize("field", ["batch_pairs", "rows_per_part", "max_aspect", "max_upscale", "limit"])
def test_settings_without_sense_are_refused(tmp_path: Path, family: Any, field: str) -> None:
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')} must be at least 1"):
        settings = ImportSettings(**{field: 0})
        import_pairs("nowhere", tmp_path / "pairs", recipe(family), settings, family=family)


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
