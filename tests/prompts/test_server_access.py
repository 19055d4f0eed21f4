"""How a server is reached: addresses, tokens that go nowhere else, and accounts that run out."""

from __future__ import annotations

import http.client
import io
import urllib.error
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.http_client import ChatClient
from helpers.server_cases import Start, records, settings


def test_no_server(tmp_path: Path, start: Start) -> None:
    with pytest.raises(UserError, match="gives no answers .server: .*refused"):
        degrade_prompts(settings("http://127.0.0.1:9/v1"), records(), tmp_path / "d.jsonl", seed=0)


def test_token_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "geheim-1234")
    url, asked = start("good")
    degrade_prompts(settings(url, token_variable="MY_TOKEN"), records(), tmp_path / "run" / "d.jsonl", seed=0)
    assert {call["authorization"] for call in asked()} == {"Bearer geheim-1234"}
    url, _ = start("secretive")
    with pytest.raises(UserError, match=r"no model for Bearer \*\*\*") as caught:
        degrade_prompts(settings(url, token_variable="MY_TOKEN"), records(), tmp_path / "run" / "e.jsonl", seed=0)
    printed = capfd.readouterr()
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "run").rglob("*.json*") if path.is_file()]
    assert all("geheim" not in text for text in [*texts, printed.out, printed.err, str(caught.value)])


def test_wrong_token_and_redirects_are_user_errors(tmp_path: Path, start: Start) -> None:
    url, asked = start("locked")
    with pytest.raises(UserError, match=r"refuses the token in \$OPENAI_API_KEY .HTTP 401"):
        degrade_prompts(settings(url, concurrency=2), records(), tmp_path / "a.jsonl", seed=0)
    assert len(asked()) <= 4
    url, _ = start("redirecting")
    with pytest.raises(UserError, match="HTTP 307"):
        degrade_prompts(settings(url), records(), tmp_path / "b.jsonl", seed=0)
    for bad in ("localhost:8000/v1", "http://me:secret@host/v1", "file:///etc/passwd"):
        with pytest.raises(UserError, match="must look like"):
            degrade_prompts(settings(bad), records(), tmp_path / "c.jsonl", seed=0)


def http_error(code: int, body: str) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://x", code, "", http.client.HTTPMessage(), io.BytesIO(body.encode()))


def test_a_token_is_masked_before_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "ZQZQ-1234")
    client = ChatClient("http://127.0.0.1:9/v1", "tiny", "MY_TOKEN", 1.0)
    for length in (0, *range(70, 85), *range(185, 205)):
        for code in (400, 402, 404):
            assert "ZQ" not in str(client._http_error(http_error(code, "x" * length + "ZQZQ-1234"), {}))


def test_an_empty_account_stops_the_work_instead_of_skipping_prompts() -> None:
    client = ChatClient("http://127.0.0.1:9/v1", "tiny", "OPENAI_API_KEY", 1.0)
    error = client._http_error(http_error(402, "insufficient credits"), {})
    assert isinstance(error, UserError) and "HTTP 402: insufficient credits" in str(error)
