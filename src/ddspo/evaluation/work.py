"""Drawing and scoring, resumable at every batch: what is there is kept, what is missing is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import append_jsonl, claim_folder, content_id, file_fingerprint, read_json, write_jsonl
from ..ledger import Ledger
from ..progress import progress
from ..prompts.sources import PromptRecord
from ..recipe import Recipe
from .negative_prompt import NEGATIVE_PROMPT
from .pictures import Images, Picture, plan_batches, read_pngs, write_png
from .scorers import Scorer
from .summary import REFERENCE, category

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily
    from ..families.prompt_table import PromptTable

FORMAT = 1
SCORES = "scores.jsonl"
TEXT = ".text"
"""text embeddings while pictures are missing; hidden, since a folder of them alone is bound to no settings yet"""
_POLICY_RECORD = "ddspo.json"
Row = dict[str, Any]


@dataclass
class Work:
    """The pictures and scores of one evaluation, and what is still missing of them.

    Args:
        recipe: `model`, `seed` and `evaluation` are used.
        family: the base.
        records: the prompts.
        scorers: by the words they were chosen with; the first is the one that details are kept of.
        output: the folder.
        negatives: prompt id -> negative prompt of the model `NEGATIVE_PROMPT`.

    Raises:
        UserError: the folder holds an evaluation made with other settings.
    """

    recipe: Recipe
    family: PipelineFamily
    records: Sequence[PromptRecord]
    scorers: dict[str, Scorer]
    output: Path
    negatives: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        evaluation = self.recipe.evaluation
        self.batches = plan_batches(
            self.records, evaluation.images_per_prompt, evaluation.sampling.batch_images, self.recipe.seed
        )
        self.settings = self._settings()
        self._fingerprints: dict[str, str] = {}
        if _occupied(self.output):
            self._bind_folder()
        self.rows = read_scores(self.output / SCORES)
        self.ledger = Ledger.load(self.output)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Models that are the base itself: the reference, and with negative prompts the one guided by them."""
        return (REFERENCE, NEGATIVE_PROMPT) if self.negatives else (REFERENCE,)

    def _settings(self) -> dict[str, Any]:
        """What decides pictures and scores; recorded, and compared on resuming."""
        model, evaluation = self.recipe.model, self.recipe.evaluation
        return {
            "format": FORMAT,
            "base_fingerprint": self.family.fingerprint(),
            "frozen_dtype": model.frozen_dtype,
            "height_px": model.height_px,
            "width_px": model.width_px,
            "seed": self.recipe.seed,
            "prompts": len(self.records),
            "prompts_digest": content_id(*(record.id for record in self.records)),
            "images_per_prompt": evaluation.images_per_prompt,
            "sampling": evaluation.sampling.model_dump(mode="json"),
            "scorers": list(self.scorers),
        }

    def claim(self, name: str, folder: Path | None) -> None:
        """Tie images/NAME to one set of weights, so that pictures of two trainings never mix under one name."""
        fingerprint = self.settings["base_fingerprint"] if folder is None else self._policy_fingerprint(folder)
        negatives = self.negatives.values() if name == NEGATIVE_PROMPT else ()
        self._fingerprints[name] = content_id(fingerprint, *negatives) if negatives else fingerprint
        if _occupied(self.output / "images" / name):
            self._bind_pictures(name)

    def _bind_folder(self) -> None:
        claim_folder(self.output, self.settings, "an evaluation")

    def _bind_pictures(self, name: str) -> None:
        claim_folder(self.output / "images" / name, {"fingerprint": self._fingerprints[name]}, f"pictures of '{name}'")

    def _policy_fingerprint(self, folder: Path) -> str:
        if not (folder / _POLICY_RECORD).is_file():
            raise UserError(
                f"{folder} has no {_POLICY_RECORD}, so it is no policy of ddspo; give a run's 'policy' folder"
            )
        record = read_json(folder / _POLICY_RECORD)
        if record.get("base_fingerprint") != self.settings["base_fingerprint"]:
            raise UserError(
                f"{folder} was trained on another base (fingerprint {record.get('base_fingerprint')}) than "
                f"{self.family.base} ({self.settings['base_fingerprint']}); evaluate it with its own base"
            )
        return file_fingerprint(sorted(folder.rglob("*.safetensors")))

    def complete(self, models: Mapping[str, Path | None]) -> None:
        """Draw and score what is missing. An interruption loses at most the batch at hand.

        Args:
            models: name -> policy folder; None: the base's own network.
        """
        pictures = sum(map(len, self.batches))
        names = list(models)
        done = sum(self._scored(name, batch) * len(batch) for name in names for batch in self.batches)
        undrawn = any(not self._drawn(name, batch) for name in names for batch in self.batches)
        table = self._prompt_table() if undrawn else None
        with progress(pictures * len(names), "evaluate", "pictures", done) as bar:
            for name in names:
                self._complete_model(name, models[name], table, bar)
        self.family.release("denoiser")
        del table
        shutil.rmtree(self.output / TEXT, ignore_errors=True)  # gigabytes for large encoders, and all is drawn

    def _complete_model(self, name: str, folder: Path | None, table: PromptTable | None, bar: Any) -> None:
        from .generate import load_denoiser

        denoiser = None  # held here alone, so it is gone before the next model's is loaded
        for batch in self.batches:
            if self._scored(name, batch):
                continue
            if not self._drawn(name, batch):
                assert table is not None
                denoiser = denoiser or load_denoiser(self.family, folder, self.recipe.model)
                self._draw_batch(name, batch, table, denoiser)
            self._score_batch(name, batch)
            self.ledger.save(self.output)
            bar.update(len(batch))

    def _prompt_table(self) -> PromptTable:
        from .generate import prompts_on_disk

        prompts = [record.prompt for record in self.records]
        return prompts_on_disk(self.family, [*prompts, *self.negatives.values()], self.output / TEXT)

    def _drawn(self, name: str, batch: list[Picture]) -> bool:
        return all((self.output / picture.path(name)).is_file() for picture in batch)

    def _scored(self, name: str, batch: list[Picture]) -> bool:
        return self._drawn(name, batch) and all((name, p.record.id, p.index) in self.rows for p in batch)

    def _draw_batch(self, name: str, batch: list[Picture], table: PromptTable, denoiser: Any) -> None:
        from .generate import generate

        images = generate(
            self.family,
            [picture.record.prompt for picture in batch],
            [picture.seed for picture in batch],
            self.recipe.evaluation.sampling,
            table,
            height_px=self.recipe.model.height_px,
            width_px=self.recipe.model.width_px,
            denoiser=denoiser.eval(),
            ledger=self.ledger,
            negative_prompts=[self.negatives[p.record.id] for p in batch] if name == NEGATIVE_PROMPT else None,
        )
        # Only now, with something to keep, do settings bind: a batch that did not fit in memory may be made smaller.
        self._bind_folder()
        self._bind_pictures(name)
        self.ledger.save(self.output, before=[picture.path(name) for picture in batch])
        for picture, image in zip(batch, images, strict=True):
            write_png(self.output / picture.path(name), image)

    def _score_batch(self, name: str, batch: list[Picture]) -> None:
        images = read_pngs([self.output / picture.path(name) for picture in batch])
        found = [scorer(images, [picture.record for picture in batch]) for scorer in self.scorers.values()]
        for number, picture in enumerate(batch):
            scores = {choice: float(score.values[number]) for choice, score in zip(self.scorers, found, strict=True)}
            row = {
                "model": name,
                "id": picture.record.id,
                "prompt": picture.record.prompt,
                "category": category(picture.record),
                "image": picture.path(name).as_posix(),
                "index": picture.index,
                "seed": picture.seed,
                "score": next(iter(scores.values())),
                "scores": scores,
                "detail": found[0].details[number],
            }
            key = (name, picture.record.id, picture.index)
            if key not in self.rows:
                self.rows[key] = row
                append_jsonl(self.output / SCORES, row)

    def notes(self) -> list[str]:
        """Plain sentences for the report."""
        truncated = sum(self.family.truncated([record.prompt for record in self.records]))
        self.family.release("text_encoder")
        if not truncated:
            return []
        return [f"{truncated} of {len(self.records)} prompts are longer than the text encoder takes and are cut there"]

    def ordered_rows(self, names: Iterable[str]) -> dict[str, list[Row]]:
        """Score rows of each model, in the order of prompts and pictures; scores.jsonl is put in that order too."""
        pictures = [picture for batch in self.batches for picture in batch]
        ordered = {name: [self.rows[name, picture.record.id, picture.index] for picture in pictures] for name in names}
        others = [row for (name, *_), row in self.rows.items() if name not in ordered]
        write_jsonl(self.output / SCORES, [*(row for rows in ordered.values() for row in rows), *others])
        return ordered

    def images(self, name: str) -> Iterator[Images]:
        """All pictures of a model, batch by batch, uint8 [N, H, W, 3]."""
        for batch in self.batches:
            yield read_pngs([self.output / picture.path(name) for picture in batch])


def _occupied(folder: Path) -> bool:
    return folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def read_scores(path: Path) -> dict[tuple[str, str, int], Row]:
    """Rows by (model, prompt id, index). A line that a killed process left torn is dropped from the file."""
    rows, lines = [], path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
            key = (row["model"], row["id"], row["index"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        rows.append((key, row))
    if len(rows) < len(lines):
        write_jsonl(path, (row for _, row in rows))
    return dict(rows)
