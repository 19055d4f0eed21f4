"""Where a run was made: versions, machine and command, kept beside its results."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("ddspo", "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "scipy")


def describe_environment() -> dict[str, Any]:
    """{"command", "python", "platform", "cpu_count", "threads", "device", "packages", "git_commit"}; JSON-ready."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "command": " ".join(["ddspo", *sys.argv[1:]]) if sys.argv[0].endswith("ddspo") else "python",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "git_commit": _git_commit(Path(__file__)),
    }


def _git_commit(file: Path) -> str | None:
    """The commit of the repository that tracks `file`, with '+' when something in it was changed; None without one."""
    git = ["git", "-C", str(file.parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], **options)
        described = subprocess.run([*git, "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"], **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return str(described.stdout).strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
