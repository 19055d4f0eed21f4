"""Sizes and pictures of imported pairs: one bucket, one crop, one flip for both sides, and true numbers about them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddspo.families.load import load_family
from ddspo.pairs.bucket_sizes import bucket_for, bucket_sizes, needed_multiple_px
from ddspo.pairs.pictures import BROKEN, MISSING, TOO_SMALL, UnusablePictureError, decode, prepare_pair
from helpers.preference_sets import encoded, picture
from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl
from helpers.tiny_pipelines import tiny_sd


def test_buckets_at_1024_are_those_sdxl_was_trained_with() -> None:
    sizes = bucket_sizes((1024, 1024), 32)
    assert sizes[0] == (1024, 1024)
    assert {(832, 1216), (1216, 832), (896, 1152), (768, 1344), (704, 1408), (960, 1088)} <= set(sizes)
    assert all(height % 64 == width % 64 == 0 for height, width in sizes)
    assert all(0.85 * 1024**2 <= height * width <= 1024**2 for height, width in sizes)
    assert all(max(height / width, width / height) <= 2 for height, width in sizes)
    assert {(width, height) for height, width in sizes} == set(sizes)


@pytest.mark.parametrize("base", [(512, 512), (768, 512), (64, 64)])
def test_buckets_keep_to_the_multiple_and_the_base_is_first(base: tuple[int, int]) -> None:
    sizes = bucket_sizes(base, 64, max_aspect=3)
    assert sizes[0] == base and len(set(sizes)) == len(sizes)
    assert all(side % 64 == 0 for size in sizes for side in size)
    assert bucket_sizes(base, 64, max_aspect=1) == [base]


@pytest.mark.parametrize(
    ("build", "multiple"), [(tiny_sd, 64), (tiny_sdxl, 32), (tiny_sd3, 16), (tiny_sana, 32), (tiny_flux, 16)]
)
def test_every_size_goes_through_its_denoiser(tmp_path: Path, build: object, multiple: int) -> None:
    family = load_family(str(build(tmp_path)))  # type: ignore[operator]
    assert needed_multiple_px(family) == multiple


def test_a_pair_takes_the_bucket_closest_to_both_aspects() -> None:
    sizes = [(64, 64), (64, 96), (96, 64), (32, 128)]
    assert bucket_for((1.0, 1.0), sizes) == (64, 64)
    assert bucket_for((1.5, 1.4), sizes) == (64, 96)
    assert bucket_for((0.5, 0.9), sizes) == (96, 64)
    assert bucket_for((2.0, 0.5), sizes) == (64, 64)
    assert bucket_for((9.0, 9.0), sizes) == (32, 128)


def test_both_sides_are_cut_alike_and_the_numbers_are_true() -> None:
    win, lose = encoded(picture(0, (200, 100))), encoded(picture(0, (400, 200)))
    pair = prepare_pair(win, lose, [(64, 64)], flipped=False, max_upscale=2)
    assert pair.win.shape == pair.lose.shape == (3, 64, 64)
    assert (pair.win.float() - pair.lose.float()).abs().max() <= 2  # the same scene at two resolutions
    assert pair.sizes["original_win_px"] == [100, 200] and pair.sizes["original_lose_px"] == [200, 400]
    assert pair.sizes["crop_win_px"] == pair.sizes["crop_lose_px"] == [0, 32]  # 128 px wide after scaling, 32 cut off
    assert (pair.sizes["height_px"], pair.sizes["width_px"], pair.sizes["flipped"]) == (64, 64, False)
    # the middle half of the width is kept: red runs from a quarter to three quarters
    red = pair.win[0, 32].float()
    assert red[0].item() == pytest.approx(64, abs=3) and red[-1].item() == pytest.approx(191, abs=3)


def test_a_flip_mirrors_both_sides() -> None:
    win, lose = encoded(picture(0, (96, 64))), encoded(picture(1, (64, 96)))
    plain, mirrored = (prepare_pair(win, lose, [(64, 64)], flipped=flip, max_upscale=2) for flip in (False, True))
    assert torch.equal(plain.win.flip(-1), mirrored.win) and torch.equal(plain.lose.flip(-1), mirrored.lose)
    assert mirrored.sizes == plain.sizes | {"flipped": True}


@pytest.mark.parametrize(("size", "bucket"), [((214, 226), (1024, 1024)), ((226, 214), (1024, 1024))])
def test_rounding_asks_for_no_pixel_outside_the_picture(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    side, scale = 214, 1024 / 214
    assert 1024 / scale > side  # the part to keep would be wider than the picture
    data = encoded(picture(0, size))
    pair = prepare_pair(data, data, [bucket], flipped=False, max_upscale=8)
    assert pair.win.shape == (3, *bucket)


def test_sixteen_bits_a_pixel_keep_their_shades() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    shades = np.asarray(decode(encoded(Image.fromarray(values))))
    assert shades.shape == (64, 64, 3) and np.array_equal(shades[..., 0], values >> 8)


def test_a_picture_is_upright_rgb_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    assert decode(encoded(picture(0, (80, 40)), "JPEG", exif=exif)).size == (40, 80)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert np.asarray(decode(encoded(clear))).min() == 255
    grey = decode(encoded(Image.new("L", (8, 8), 7)))
    assert grey.mode == "RGB" and grey.getpixel((0, 0)) == (7, 7, 7)
    palette = picture(0).convert("P")
    assert decode(encoded(palette, "GIF")).mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", MISSING),
        (Path("no such file"), MISSING),
        (b"not a picture", BROKEN),
        (encoded(picture(0))[:-40], BROKEN),
        (encoded(picture(0, (300, 300)), "JPEG")[:1500], BROKEN),
    ],
)
def test_what_is_no_whole_picture_is_told_apart(data: bytes | Path, reason: str) -> None:
    with pytest.raises(UnusablePictureError) as caught:
        decode(data)
    assert str(caught.value) == reason


def test_a_picture_of_absurd_size_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnusablePictureError, match=BROKEN):
        decode(encoded(picture(0)))


def test_the_limit_on_size_does_not_depend_on_what_other_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warning filters belong to the whole process: another thread that leaves its block may reset them in ours."""
    wide, limit, whole = picture(0), 64 * 64 - 1, Image.open

    def interrupted(*args: Any, **kwargs: Any) -> Image.Image:
        warnings.simplefilter("ignore")
        return whole(*args, **kwargs)

    assert wide.width * wide.height > limit
    data = encoded(wide)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(UnusablePictureError, match=BROKEN):
        decode(data)


def test_only_formats_that_need_no_other_program_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: picture(0).im)
    data = encoded(picture(0), "EPS")
    assert Image.open(io.BytesIO(data)).convert("RGB").size == picture(0).size  # Pillow would have it drawn
    with pytest.raises(UnusablePictureError, match=BROKEN):
        decode(data)
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert decode(encoded(picture(0), name)).size == picture(0).size


def test_pictures_that_would_grow_too_much_are_left_out() -> None:
    data = encoded(picture(0, (32, 32)))
    assert prepare_pair(data, data, [(64, 64)], flipped=False, max_upscale=2).win.shape == (3, 64, 64)
    with pytest.raises(UnusablePictureError, match=TOO_SMALL):
        prepare_pair(data, encoded(picture(0, (31, 31))), [(64, 64)], flipped=False, max_upscale=2)
