"""Chat servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddspo.prompts import server as backend
from helpers.server_cases import Start

SCRIPT = Path(__file__).parents[1] / "helpers" / "chat_server.py"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a server in a mood; gives its address and a function that reads what it was asked."""
    monkeypatch.setattr(backend.ServerCompleter.__init__, "__defaults__", (0.02,))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with contextlib.ExitStack() as stack:

        def begin(mood: str) -> tuple[str, Callable[[], list[dict[str, Any]]]]:
            log = tmp_path / f"{mood}.log"
            process = stack.enter_context(
                subprocess.Popen([sys.executable, str(SCRIPT), mood, str(log)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
            return url, lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

        yield begin
