"""A language model on this machine, through transformers."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

import torch

from ..errors import UserError, first_line
from ..recipe import LanguageModel
from .language_model import Failure, Question

_DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _OwnDraws:
    """Sampling in which every row has its own randomness, as a processor of logits before greedy choice.

        argmax_i (logit_i / temperature + g_i),  g_i = -log(-log u_i)      draws i with softmax(logit / temperature)

    (the Gumbel-max trick), with u from a generator per row.
    """

    def __init__(self, seeds: list[int], temperature: float, device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, device=g.device) for g in self._generators])
        tiny = torch.finfo(torch.float32).tiny
        exponential = (-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny)
        return scores.float() / self._temperature - torch.log(exponential)


class LocalCompleter:
    """Answers in batches: chat template, left padding, a seed per question. Loads the model at the first question.

    An answer depends on its own prompt and seed, not on what shares its batch (up to rounding in padded batches): so
    interrupted and shared work gives what unbroken work gives.
    """

    def __init__(self, settings: LanguageModel) -> None:
        self._settings = settings
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            name = self._settings.name
            try:
                tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
                model = AutoModelForCausalLM.from_pretrained(
                    name, dtype=_DTYPES[self._settings.dtype], use_safetensors=True, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise UserError(
                    f"degradation.language_model.name: cannot load '{name}' ({first_line(error)}); give a folder, or "
                    "an id that can be downloaded from here"
                ) from error
            if not tokenizer.chat_template:
                raise UserError(
                    f"degradation.language_model.name: '{name}' has no chat template; choose an instruct model"
                )
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = tokenizer, model.to(self._device()).eval()
        return self._loaded

    def _device(self) -> str:
        if self._settings.device != "auto":
            return self._settings.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def complete(
        self, questions: Iterable[Question], schema: dict[str, object]
    ) -> Generator[str | Failure, None, None]:
        """One answer per question, in order. The schema is not enforced here; answers are read defensively."""
        pending = iter(questions)
        while batch := list(islice(pending, self._settings.batch_prompts)):
            yield from self._batch(batch)

    def _batch(self, batch: list[Question]) -> list[str | Failure]:
        tokenizer, model = self._load()
        room = getattr(model.config, "max_position_embeddings", None) or 1 << 20
        rows = [
            tokenizer.apply_chat_template(
                question.messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
            for question in batch
        ]
        answers: list[str | Failure] = [Failure("longer than the model's context")] * len(batch)
        fitting = [i for i, row in enumerate(rows) if len(row["input_ids"]) + self._settings.max_new_tokens <= room]
        if fitting:
            made = self._generate([rows[i]["input_ids"] for i in fitting], [batch[i].seed for i in fitting])
            for i, answer in zip(fitting, made, strict=True):
                answers[i] = answer
        return answers

    def _generate(self, ids: list[list[int]], seeds: list[int]) -> list[str]:
        """Answers to tokenized conversations; a batch that does not fit into memory is halved."""
        tokenizer, model = self._load()
        padded = tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt").to(model.device)
        draws = [_OwnDraws(seeds, self._settings.temperature, model.device)] if self._settings.temperature else []
        try:
            with torch.no_grad():
                made = model.generate(
                    **padded,
                    max_new_tokens=self._settings.max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    logits_processor=draws,
                )
        except torch.cuda.OutOfMemoryError:
            if len(ids) == 1:
                raise
            torch.cuda.empty_cache()
            middle = len(ids) // 2
            return self._generate(ids[:middle], seeds[:middle]) + self._generate(ids[middle:], seeds[middle:])
        return list(tokenizer.batch_decode(made[:, padded["input_ids"].shape[1] :], skip_special_tokens=True))
