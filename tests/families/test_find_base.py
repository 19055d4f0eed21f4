"""Where a base is found: a folder, the embedded model, the cache or the hub; and why it is not."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ddspo.families.load import load_family
from helpers.damaged_bases import message


def test_unknown_folders_files_and_ids(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "nothing")
    assert "does not exist" in message("nothing")
    assert "hub" in message("nobody/no-such-model")
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    assert "single file" in message(single)
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in message(tmp_path / "empty")


def test_the_embedded_model_goes_the_same_way(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embedded = types.ModuleType("tinyscenes")
    monkeypatch.setitem(sys.modules, "tinyscenes", embedded)
    assert "not installed" in message("tinyscenes")
    monkeypatch.setattr(embedded, "pipeline_folder", lambda: tmp_path / "gone", raising=False)
    assert "lacks" in message("tinyscenes")
    monkeypatch.setattr(embedded, "pipeline_folder", lambda: folder)
    family = load_family("tinyscenes")
    assert family.base == folder and family.source["base"] == "tinyscenes"


def test_a_downloaded_model_is_read_from_the_cache_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's layout: snapshots/<commit>/ holds links to blobs, and a large blob is named by its SHA-256."""
    import hashlib

    repository = tmp_path / "cache" / "models--someone--tiny"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    for file in (file for file in folder.rglob("*") if file.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = repository / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    family = load_family("someone/tiny")
    assert family.base == repository / "snapshots" / commit
    assert family.source["base"] == "someone/tiny"
    assert family.fingerprint() == load_family(str(folder)).fingerprint()


def test_a_download_brings_the_models_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own download leaves it out, and the license is in it."""
    asked: list[str] = []

    def download(repository: str, name: str, **_: object) -> str:
        asked.append(name)
        if name == "README.md":
            raise LocalEntryNotFoundError("a model without a card is one all the same")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *_, **__: str(folder))
    assert load_family("someone/tiny").base == folder
    assert asked == ["model_index.json", "README.md"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError, "gated; accept its terms"),
        (RepositoryNotFoundError, "no such model"),
        (RevisionNotFoundError, "model.revision"),
        (RemoteEntryNotFoundError, "no diffusers pipeline"),
        (ValueError, "no files of model.variant 'fp16'"),
        (LocalEntryNotFoundError, "the network"),
    ],
)
def test_why_a_download_failed_is_told(monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: str) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error.__new__(error)  # those of the hub are made of an answer

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert words in message("someone/tiny", variant="fp16")
