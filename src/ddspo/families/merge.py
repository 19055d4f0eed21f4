"""A LoRA policy added into its base's weights: a complete pipeline folder, for tools that know no LoRA."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_json
from .folder import INDEX
from .lora import AdapterDeltas
from .pipeline import DTYPES, PipelineFamily
from .policy import atomic_folder, base_of, link_part, load_policy, read_record, write_record


def merge_policy(policy: Path, output: Path, *, base: str | None = None) -> Path:
    """Write base + LoRA as a pipeline folder: W + (alpha / rank) B A, summed in float32, stored as the base stores W.

    The denoiser's files keep their shards and the precision of every tensor (those of the variant that the policy was
    trained on, under plain names); tensors that no LoRA touches are the base's, bit for bit. All other parts are the
    base's own files.

    Args:
        policy: the folder of a LoRA policy.
        output: the pipeline folder to write; new, empty, or an earlier policy.
        base: where the base is now; None: where it was when the policy was trained.

    Returns:
        `output`.

    Raises:
        UserError: not a LoRA policy, a base that is not the policy's, or a folder that cannot be written.
    """
    record = read_record(policy)
    if record["kind"] == "full":
        raise UserError(f"{policy} is a complete pipeline already; there is nothing to merge")
    plain = base_of(record, base=base)
    files = plain.folder.weight_files(plain.denoiser_part)
    family = load_policy(policy, base=base, dtype=_stored_dtype(files[-1]))
    if output.resolve() == policy.resolve():
        raise UserError(f"{output} is the policy itself; choose another --output")
    card = policy / "README.md"
    with atomic_folder(output) as partial:
        index = {key: value for key, value in family.folder.index.items() if key != "_name_or_path"}
        for name in family.folder.parts():
            if name == family.denoiser_part:
                _write_denoiser(family, files, partial / name)
            elif not link_part(family.folder, name, partial):
                index[name] = [None, None]
        write_json(partial / INDEX, index)
        write_record(family, partial, "full", merged_card(card.read_text("utf-8")) if card.is_file() else None)
    return output


def merged_card(card: str) -> str:
    """The LoRA's model card, with how to load the merged pipeline in place of how to load the LoRA."""
    loading = (
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        'pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder")\n```'
    )
    card = re.sub(r"```python\n.*?```", lambda _: loading, card, count=1, flags=re.DOTALL)
    return card.replace("LoRA weights trained", "A LoRA, merged into its base by `ddspo merge`, trained", 1)


def _write_denoiser(family: PipelineFamily, files: list[Path], target: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    weights, deltas = dict(family.denoiser.state_dict()), AdapterDeltas(family.denoiser)
    exact = not family.lora  # the file itself holds the base, also what was rounded when it was loaded
    first, *shards = files
    plain = first.name.replace(f".{family.folder.variant}.", ".") if family.folder.variant else first.name
    target.mkdir()
    shutil.copyfile(first.with_name("config.json"), target / "config.json")
    if shards:
        shutil.copyfile(first, target / plain)
    for source in shards or [first]:
        with safe_open(source, framework="pt") as opened:
            tensors = {name: _merged(name, opened.get_tensor(name), weights, deltas, exact) for name in opened.keys()}  # noqa: SIM118
            save_file(tensors, target / (source.name if shards else plain), metadata=opened.metadata())


def _merged(name: str, stored: Tensor, weights: dict[str, Tensor], deltas: AdapterDeltas, exact: bool) -> Tensor:
    """The tensor to write in place of `stored`, which with `exact` is what the LoRA was trained on."""
    module = name.removesuffix(".weight")
    inner = f"{module}.base_layer.weight"
    bias = re.sub(r"\.bias$", ".base_layer.bias", name)
    current = weights.get(inner, weights.get(name, weights.get(bias)))
    if current is None:
        return stored
    delta = deltas.get(inner)
    if delta is None:
        # What differs from the file without being adapted comes from LoRAs that were merged into the base itself.
        return stored if torch.equal(current.cpu(), stored.to(current.dtype)) else current.cpu().to(stored.dtype)
    return ((stored if exact else current).float() + delta).cpu().to(stored.dtype).contiguous()


def _stored_dtype(file: Path) -> str:
    """The precision that most numbers of a safetensors file have: 'fp32', 'bf16' or 'fp16'."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    sizes: dict[str, int] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + last - first
    names = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
    return names.get(max(sizes, key=lambda dtype: sizes[dtype]), next(iter(DTYPES)))
