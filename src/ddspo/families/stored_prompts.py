"""Text embeddings on disk: computed once per unique prompt, memory-mapped, shared by all runs on the same pairs.

A folder belongs to one fingerprint of the text side and holds files of some hundred prompts each,

    text-3f0c...safetensors    the conditioning's tensors, [N, ...] each, and of every prompt its key and whether it is
                               longer than the encoder takes

named after the prompts in them. A file is written under another name and renamed, so one that is there is whole, and
what an earlier run encoded is there for the next. In memory stay one small entry per prompt and the pages in use.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError
from ..files import atomic_path, file_fingerprint, require_free_space, write_json
from ..processes import Process, this_process
from ..progress import progress
from ..tensors import Conditioning
from .base import Family
from .pipeline import PipelineFamily
from .prompt_table import PromptTable, in_batches, read_prompts, warn_of_truncated

KEYS, TRUNCATED = "ddspo.keys", "ddspo.truncated"
FILE_BYTES = 128 * 2**20
"""a file is closed when it is about this large, since it is put together in memory"""
_POLL_SECONDS = 0.5


def text_fingerprint(family: PipelineFamily) -> str:
    """A digest of what conditioning depends on besides the prompt: encoders, tokenizers, precision, the adapter."""
    parts = family.part_fingerprints()
    told = {
        "family": family.name,
        "dtype": str(family.dtype),
        "encoders": {name: parts[name] for name in family.text_parts},
        "tokenizers": {
            name: file_fingerprint(sorted(file for file in (family.base / name).iterdir() if file.is_file()))
            for name in family.text_parts.values()
        },
        "index": {name: value for name, value in family.folder.index.items() if not isinstance(value, list)},
        "settings": {name: getattr(family, name, None) for name in ("max_tokens", "embedded_guidance")},
        "transformers": transformers.__version__,
    }
    if (instruction := getattr(family, "instruction", None)) is not None:
        told["instruction"] = instruction()  # SANA's comes from diffusers, not from the checkpoint
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


class StoredPromptTable(PromptTable):
    """A `PromptTable` whose embeddings lie in files; text encoders load only if a prompt is missing, and leave memory.

    Prompts are encoded in the same batches whatever an interrupted attempt left, and shared out over processes.

    Args:
        family: encodes the prompts.
        prompts: repeats are encoded once.
        folder: a folder per text side is made inside.
        batch: prompts per call of the text encoder; None: the family's `prompts_at_once`.
        device: where looked-up rows go; None means the family's device.
        process: which of the processes that share the prompts; None: as the launch says.

    Raises:
        UserError: disk or device memory is too small, or a file is damaged.
    """

    def __init__(
        self,
        family: PipelineFamily,
        prompts: Iterable[str],
        folder: Path,
        batch: int | None = None,
        *,
        device: torch.device | str | None = None,
        process: Process | None = None,
    ) -> None:
        self.device = torch.device(device or family.device)
        self.folder = folder / text_fingerprint(family)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Any] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self._long: set[bytes] = set()
        unique = list(dict.fromkeys(prompts))
        self._keys = {_key(prompt) for prompt in unique}
        self._open_new_files()
        process = process or this_process()
        chunks = list(in_batches(unique, batch or family.prompts_at_once))
        self._encode(family, [chunks[number] for number in process.share(len(chunks))])
        self._wait_for_others(process)
        family.release("text_encoder")
        self.truncated = len(self._keys & self._long)
        warn_of_truncated(self.truncated, len(unique))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, str) and _key(prompt) in self._keys

    def lookup(self, prompts: Sequence[str]) -> Conditioning:
        """Rows for these prompts, in order, repeats allowed.

        Raises:
            KeyError: a prompt that the table was not built with.
        """
        missing = next((prompt for prompt in prompts if prompt not in self), None)
        if missing is not None:
            raise KeyError(missing)
        rows = [self._row(_key(prompt)) for prompt in prompts]
        return Conditioning({name: torch.cat([row[name] for row in rows]) for name in rows[0]}).to(self.device)

    def _row(self, key: bytes) -> dict[str, Tensor]:
        name, row = self._places[key]
        return {tensor: part[row : row + 1] for tensor, part in self._files[name].items()}

    def _open_new_files(self) -> None:
        for path in sorted(self.folder.glob("text-*.safetensors")):
            if path.name not in self._files:
                self._open(path)

    def _open(self, path: Path) -> None:
        try:
            handle: Any = safe_open(path, framework="pt")
            keys, long = handle.get_tensor(KEYS), handle.get_tensor(TRUNCATED)
            names = sorted(set(handle.keys()) - {KEYS, TRUNCATED})
            self._files[path.name] = {name: handle.get_slice(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and run the same command again") from error
        for row, (key, is_long) in enumerate(zip(keys, long.tolist(), strict=True)):
            digest = key.numpy().tobytes()
            self._places.setdefault(digest, (path.name, row))
            if is_long:
                self._long.add(digest)

    def _encode(self, family: Family, chunks: Sequence[Sequence[str]]) -> None:
        """Encode the chunks that are not all there."""
        todo = [chunk for chunk in chunks if any(_key(prompt) not in self._places for prompt in chunk)]
        if not todo:
            return
        total = sum(map(len, todo))
        write_json(self.folder / "settings.json", {"text_fingerprint": self.folder.name})
        waiting: list[tuple[Sequence[str], Conditioning, list[bool]]] = []
        with progress(total, "text", "prompts") as bar:
            for number, chunk in enumerate(todo):
                rows, long = read_prompts(family, chunk).to("cpu"), family.truncated(chunk)
                # A batch is encoded whole, but what an earlier run stored of it stays the one there is: of two rows
                # for a prompt, which differ in rounding, an interrupted run could take the other one.
                new = [place for place, prompt in enumerate(chunk) if _key(prompt) not in self._places]
                waiting.append(([chunk[place] for place in new], rows.rows(new), [long[place] for place in new]))
                size = sum(_bytes(rows) for _, rows, _ in waiting)
                if number == 0:
                    require_free_space(self.folder, size * total // len(new), f"text of {total} prompts")
                if size >= FILE_BYTES:
                    self._write(waiting)
                    waiting = []
                bar.update(len(chunk))
        if waiting:
            self._write(waiting)

    def _write(self, encoded: Sequence[tuple[Sequence[str], Conditioning, list[bool]]]) -> None:
        keys = [_key(prompt) for chunk, _, _ in encoded for prompt in chunk]
        tensors = {name: part.contiguous() for name, part in Conditioning.join([e[1] for e in encoded]).tensors.items()}
        tensors[KEYS] = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), -1)
        tensors[TRUNCATED] = torch.tensor([long for *_, chunk in encoded for long in chunk], dtype=torch.uint8)
        path = self.folder / f"text-{hashlib.blake2b(b''.join(keys), digest_size=8).hexdigest()}.safetensors"
        with atomic_path(path) as partial:
            partial.write_bytes(save(tensors))
        self._open(path)

    def _wait_for_others(self, process: Process) -> None:
        while process.count > 1 and not self._keys <= self._places.keys():
            time.sleep(_POLL_SECONDS)
            self._open_new_files()


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _bytes(rows: Conditioning) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in rows.tensors.values())
