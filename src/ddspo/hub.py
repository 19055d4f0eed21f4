"""A trained policy onto the Hugging Face hub: its folder, without anything of this machine in it.

The token is huggingface_hub's affair (`hf auth login`, or HF_TOKEN); it is neither read nor printed here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json
from .model_card import shown

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_BASELINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RECORD = "ddspo.json"


def find_policy(run: Path, baseline: str | None = None) -> Path:
    """The policy folder of a run, of a training's folder, or the folder itself.

    Raises:
        UserError: there is none.
    """
    if baseline is not None and not _BASELINE.fullmatch(baseline):
        raise UserError(f"'{baseline}' names no baseline; use letters, digits, - and _")
    places = [run, run / "policy_run" / "policy", run / "policy"]
    for place in places if baseline is None else [run / "baselines" / baseline / "policy"]:
        if (place / _RECORD).is_file():
            return place
    what = "policy" if baseline is None else f"policy of baseline {baseline}"
    raise UserError(f"{run} holds no trained {what}; give a run folder or the 'policy' folder of a training")


def push_policy(policy: Path, repo_id: str, *, private: bool = False, api: Any = None) -> str:
    """Upload a policy's folder to a model repository, which is made if it is not there; the repository's address.

    `ddspo.json` goes up with the names of base and LoRAs in place of their folders here.

    Args:
        policy: from `find_policy`.
        repo_id: 'owner/name', or 'name' for the account that is logged in.
        private: of a repository that is made.
        api: a `huggingface_hub.HfApi`; None: a fresh one.

    Raises:
        UserError: not a name for a repository, no network, not logged in, or not allowed; nothing local changes.
    """
    if not _REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
        raise UserError(f"'{repo_id}' cannot name a repository on the hub; give owner/name")
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    record = read_json(policy / _RECORD)
    record["base"] = {name: _without_folders(value) for name, value in record["base"].items()}
    body = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        name = str(getattr(address, "repo_id", repo_id))
        api.upload_folder(
            repo_id=name,
            folder_path=policy,
            repo_type="model",
            ignore_patterns=[_RECORD, ".*"],
            commit_message="Upload policy trained with ddspo",
        )
        api.upload_file(
            repo_id=name,
            path_or_fileobj=body,
            path_in_repo=_RECORD,
            repo_type="model",
            commit_message="Upload the policy's record",
        )
    except Exception as error:
        raise UserError(f"cannot push to {repo_id}: {_reason(error)}; run the same command again to go on") from error
    return str(address)


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return shown(value) if isinstance(value, str) else value


def _reason(error: Exception) -> str:
    """What went wrong in words of ours: messages of the libraries may hold addresses and headers."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return "not logged in, or not allowed to write there (`hf auth login`, or a write token in HF_TOKEN)"
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set; unset it"
    if status is not None:
        return f"the hub answered {status}"
    return f"the hub cannot be reached or refused ({type(error).__name__})"
