from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.instructions import messages
from ddspo.prompts.language_model import Failure, Question
from ddspo.prompts.local_model import LocalCompleter, _OwnDraws
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation, LanguageModel
from helpers.tiny_language_model import save_tiny_language_model

TEXTS = ["a red car and a blue bus", "a dog", "two cats on a mat, oil painting", "a green vase next to a clock"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_language_model(tmp_path_factory.mktemp("language_model"))


def settings(folder: Path, **fields: Any) -> LanguageModel:
    return LanguageModel(**{"name": str(folder), "max_new_tokens": 8, "dtype": "fp32", "device": "cpu", **fields})


def questions(texts: list[str] = TEXTS) -> list[Question]:
    return [Question(messages("compositional", text, 5), seed) for seed, text in enumerate(texts)]


def test_batched_left_padded_answers_equal_single_ones(folder: Path) -> None:
    alone = list(LocalCompleter(settings(folder, temperature=0, batch_prompts=1)).complete(questions(), {}))
    together = list(LocalCompleter(settings(folder, temperature=0, batch_prompts=4)).complete(questions(), {}))
    assert alone == together
    assert all(isinstance(answer, str) and answer for answer in alone)
    # the answer alone, without the conversation
    assert not any("Prompt:" in str(answer) for answer in alone)


def test_sampling_follows_the_seed_and_leaves_global_randomness_alone(folder: Path) -> None:
    import torch

    completer = LocalCompleter(settings(folder, temperature=1.0))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = list(completer.complete(questions(), {})), list(completer.complete(questions(), {}))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    moved = [Question(question.messages, 99) for question in questions()]
    assert list(completer.complete(moved, {})) != first


def test_an_answer_does_not_depend_on_what_shares_its_batch(folder: Path) -> None:
    """So work that was interrupted, or shared by processes, gives what unbroken work gives."""
    answers = {
        size: list(LocalCompleter(settings(folder, temperature=0.7, batch_prompts=size)).complete(questions(), {}))
        for size in (1, 3, 4)
    }
    assert answers[1] == answers[3] == answers[4] and len(set(answers[1])) > 1


def test_own_draws_follow_the_softmax() -> None:
    import torch

    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(4000, 1)
    drawn = _OwnDraws(list(range(4000)), 0.5, torch.device("cpu"))(torch.zeros(4000, 1), logits).argmax(1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    expected = torch.softmax(torch.tensor([0.0, 2.0, 4.0]), 0)
    assert (shares - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_too_long_a_prompt_fails_alone(folder: Path) -> None:
    answers = list(LocalCompleter(settings(folder)).complete(questions(["a dog", "word " * 3000]), {}))
    assert isinstance(answers[0], str) and answers[1] == Failure("longer than the model's context")


def test_no_chat_template_and_no_model_are_user_errors(tmp_path: Path) -> None:
    bare = save_tiny_language_model(tmp_path / "bare", template=None)
    with pytest.raises(UserError, match="has no chat template; choose an instruct model"):
        list(LocalCompleter(settings(bare)).complete(questions(), {}))
    with pytest.raises(UserError, match="cannot load"):
        list(LocalCompleter(settings(tmp_path / "nowhere")).complete(questions(), {}))


def test_pickled_weights_are_never_loaded(folder: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = copy / "model.safetensors"
    torch.save(load_file(weights), copy / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot load .*safetensors"):
        list(LocalCompleter(settings(copy)).complete(questions()[:1], {}))


def test_nonsense_of_a_random_model_is_counted_and_rules_step_in(folder: Path, tmp_path: Path) -> None:
    given = [PromptRecord(f"{i:016x}", text) for i, text in enumerate(TEXTS)]
    degradation = Degradation(method="local_model", language_model=settings(folder), fallback="rules")
    summary = degrade_prompts(degradation, given, tmp_path / "d.jsonl", seed=0)
    assert summary.written == 4
    assert summary.dropped["made by rules instead: the model's answer is not readable"] == 4
    with pytest.raises(UserError, match="the model.*s answer is not readable.*: 4"):
        none = degradation.model_copy(update={"fallback": "none"})
        degrade_prompts(none, given, tmp_path / "e.jsonl", seed=0)


def test_a_model_that_obeys(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The degrader around the model: order, kinds and rejection, with the model's words replaced."""

    def obedient(self: LocalCompleter, batch: list[Question]) -> list[str | Failure]:
        prompts = [question.messages[-1]["content"].removeprefix("Prompt: ") for question in batch]
        return [
            json.dumps({"variants": [{"text": p, "kind": "x"}, {"text": p + " in space", "kind": "drop_object"}]})
            for p in prompts
        ]

    monkeypatch.setattr(LocalCompleter, "_batch", obedient)
    given = [PromptRecord(f"{i:016x}", text) for i, text in enumerate(TEXTS)]
    degradation = Degradation(method="local_model", language_model=settings(folder, batch_prompts=3))
    summary = degrade_prompts(degradation, given, tmp_path / "d.jsonl", seed=0)
    assert summary.kinds == {"drop_object": 4} and summary.dropped == {"answer: repeats the prompt": 4}
