"""Model cards: complete, honest about license and figures, and with nothing of the machine they were made on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddspo.errors import UserError
from ddspo.hub import find_policy, push_policy
from ddspo.model_card import base_license, model_card, shown, write_figures
from ddspo.recipe import Recipe


def card(recipe: Recipe, kind: str = "lora", license_name: str = "mit", **metrics: Any) -> str:
    cost = {"seconds": 12.0, "network_evaluations": 3456}
    return model_card(recipe, metrics, cost, "10, drawn", kind=kind, license_name=license_name)


def front_matter(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert isinstance(values, dict)
    return values


def with_readme(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_the_front_matter_is_what_the_hub_reads() -> None:
    recipe = Recipe.model_validate({"name": "a: #b\n- c", "model": {"base": "owner/model"}})
    values = front_matter(card(recipe))
    assert values["base_model"] == "owner/model" and values["license"] == "mit"
    assert {"ddspo", "lora"} <= set(values["tags"]) and values["pipeline_tag"] == "text-to-image"
    assert "lora" not in front_matter(card(recipe, "full"))["tags"]
    assert "\n# a: #b - c\n" in card(recipe)


def test_only_a_base_on_the_hub_is_linked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub makes a link of any name, and a folder's name may be a stranger's model there."""
    (tmp_path / "owner" / "model").mkdir(parents=True)

    def linked(base: str) -> str | None:
        recipe = Recipe.model_validate({"model": {"base": base}})
        return front_matter(card(recipe, "full")).get("base_model")

    assert linked("owner/model") == "owner/model"
    monkeypatch.chdir(tmp_path)
    assert linked("owner/model") is None
    for local in ("tinyscenes", str(tmp_path / "owner" / "model"), str(tmp_path / "gone"), "./gone/model", "gone"):
        assert linked(local) is None


def test_recipe_cost_and_last_step_are_told() -> None:
    text = card(Recipe.model_validate({"objective": {"beta": 123}, "seed": 77}), margin=1.25)
    for expected in ("beta 123", "`training_free`", "3456 network evaluations", "| seed | 77 |", "| margin | 1.25 |"):
        assert expected in text


def test_folders_of_this_machine_stay_out(tmp_path: Path) -> None:
    base = tmp_path / "secret" / "my-model"
    base.mkdir(parents=True)
    recipe = Recipe.model_validate(
        {"model": {"base": str(base), "lora": [str(tmp_path / "secret" / "style.safetensors")]}}
    )
    text = card(recipe)
    assert "secret" not in text and str(tmp_path) not in text
    assert "path/to/my-model" in text and "path/to/style.safetensors" in text and "fuse_lora" in text
    assert shown("owner/model") == "owner/model" and shown(tmp_path / "gone" / "x") == "x"


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: creativeml-openrail-m\ntags: [a]\n---\n# x", "creativeml-openrail-m"),
        ("---\nlicense: other\nlicense_name: sai-nc\n---\n", "sai-nc"),
        ("---\ntags: [a]\n---\n", "unknown"),
        ("---\nlicense: [a, b]\n---\n", "unknown"),
        ("---\nlicense: 'x\n---\n", "unknown"),
        ('---\nlicense: "a\\nb: c"\n---\n', "unknown"),
        ("# no front matter\n---\nlicense: mit\n---\n", "unknown"),
    ],
)
def test_the_license_is_the_bases_or_unknown(tmp_path: Path, readme: str, expected: str) -> None:
    found = base_license(with_readme(tmp_path / "base", readme), "base")
    assert found == expected
    text = card(Recipe(), license_name=found)
    assert ("look it up" in text.lower()) == (expected == "unknown")
    assert base_license(tmp_path / "none", "base") == "unknown"


def test_a_license_that_the_hub_does_not_list_is_named_beside_other() -> None:
    """The hub refuses a card whose `license` it does not know, and with it the whole upload (SD3, FLUX)."""
    values = front_matter(card(Recipe(), license_name="flux-1-dev-non-commercial-license"))
    assert (values["license"], values["license_name"]) == ("other", "flux-1-dev-non-commercial-license")
    listed = front_matter(card(Recipe(), license_name="openrail++"))
    assert listed["license"] == "openrail++" and "license_name" not in listed


def evaluation(folder: Path, mean: float = 0.5) -> Path:
    def interval(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - 0.1, "high": value + 0.1}

    ours = {"overall": interval(mean), "difference": interval(mean - 0.3) | {"p_value": 0.012}}
    results = {
        "prompts": 40,
        "images_per_prompt": 2,
        "confidence": 0.95,
        "settings": {"sampling": {"steps": 20, "guidance_scale": 3.0}},
        "models": {
            "reference": {"scorers": {"tinyscenes": {"overall": interval(0.3)}}, "frechet": 3.0},
            "policy": {"scorers": {"tinyscenes": ours}, "frechet": 2.5, "inception_score": None},
        },
    }
    path = folder / "evaluation.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


def test_figures_are_written_with_intervals_and_replaced(tmp_path: Path) -> None:
    policy = with_readme(tmp_path / "policy", card(Recipe()))
    before = (policy / "README.md").read_text()
    assert "Not measured" in before
    write_figures(policy, evaluation(tmp_path), "policy")
    first = (policy / "README.md").read_text()
    assert "0.5000 [0.4000, 0.6000]" in first and "+0.2000 [+0.1000, +0.3000]" in first and "0.012" in first
    assert "40 prompts, 2 pictures each" in first and "guidance 3" in first and "Not measured" not in first
    assert "| frechet of the set | 3 | 2.5 |" in first and "inception" not in first
    write_figures(policy, evaluation(tmp_path, 0.7), "policy")
    second = (policy / "README.md").read_text()
    assert "0.5000 [" not in second and second.count("| tinyscenes |") == 1
    write_figures(policy, evaluation(tmp_path), "policy")
    assert (policy / "README.md").read_text() == first, "the same evaluation gives the same card"
    assert second.split("## How it was made")[1] == before.split("## How it was made")[1]


def test_a_card_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    policy = with_readme(tmp_path / "policy", "# mine\n")
    write_figures(policy, evaluation(tmp_path), "policy")
    assert (policy / "README.md").read_text() == "# mine\n"
    (policy / "README.md").unlink()
    write_figures(policy, evaluation(tmp_path), "policy")
    assert not (policy / "README.md").exists()


class FakeApi:
    """Notes what is uploaded; fails with `error` if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))

    def upload_file(self, **options: Any) -> None:
        self.calls.append(("upload_file", options))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    policy = with_readme(tmp_path / "run" / "policy_run" / "policy", card(Recipe()))
    base = {"base": str(tmp_path / "secret" / "sd"), "revision": None, "variant": None, "lora": [str(tmp_path / "l")]}
    (policy / "ddspo.json").write_text(json.dumps({"format": 1, "kind": "lora", "base": base}), encoding="utf-8")
    return tmp_path / "run"


def test_push_uploads_the_policy_and_a_record_without_folders(run: Path) -> None:
    api, policy = FakeApi(), find_policy(run)
    assert push_policy(policy, "owner/name", private=True, api=api) == "https://hub.example/owner/name"
    (_, made), (_, folder), (_, record) = api.calls
    assert made["repo_id"] == "owner/name" and made["private"] is True and made["exist_ok"] is True
    assert folder["folder_path"] == policy and "ddspo.json" in folder["ignore_patterns"]
    written = json.loads(record["path_or_fileobj"])
    assert record["path_in_repo"] == "ddspo.json"
    assert written["base"] == {"base": "sd", "revision": None, "variant": None, "lora": ["l"]}
    assert not any("token" in options for _, options in api.calls)
    assert json.loads((policy / "ddspo.json").read_text())["base"]["base"] != "sd", "the local record stays"


class Refused(Exception):  # noqa: N818
    def __init__(self, status: int) -> None:
        super().__init__("Bearer hf_secret\nat https://hub.example")
        self.response = type("Response", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Refused(401), "not logged in"),
        (Refused(403), "not allowed"),
        (Refused(500), "answered 500"),
        (ConnectionError("hf_secret"), "cannot be reached"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_token(run: Path, error: Exception, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        push_policy(find_policy(run), "owner/name", api=FakeApi(error))
    assert "hf_secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") != "1", reason="would ask the network")
def test_offline_is_told_in_one_line(run: Path) -> None:
    with pytest.raises(UserError, match="cannot push to owner/name: HF_HUB_OFFLINE is set"):
        push_policy(find_policy(run), "owner/name")


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../x", "owner/", "own er/x", "https://hub/x", "a--b"])
def test_only_names_of_repositories_are_sent(run: Path, repo_id: str) -> None:
    api = FakeApi()
    with pytest.raises(UserError, match="cannot name a repository"):
        push_policy(find_policy(run), repo_id, api=api)
    assert api.calls == []


def test_policies_are_found_from_run_training_and_folder(run: Path, tmp_path: Path) -> None:
    policy = run / "policy_run" / "policy"
    assert find_policy(run) == find_policy(run / "policy_run") == find_policy(policy) == policy
    with pytest.raises(UserError, match="no trained policy"):
        find_policy(tmp_path)
    with pytest.raises(UserError, match="no trained policy of baseline dpo"):
        find_policy(run, "dpo")
    with pytest.raises(UserError, match="names no baseline"):
        find_policy(run, "../policy_run")
