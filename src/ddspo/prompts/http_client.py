"""One request to an OpenAI-compatible server, and what its failure means."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import UserError

_MAX_ANSWER_BYTES = 4 << 20
_OVERLOADED = frozenset([429, 503, 529])


class RequestError(Exception):
    """A request that gave no answer.

    kind: 'busy' (the server asks to slow down), 'unreachable', 'broken' (timeouts, 5xx, nonsense: worth another try),
    'refused' (this request, 4xx), 'format' (the server does not know `response_format`).
    """

    def __init__(
        self,
        kind: Literal["busy", "unreachable", "broken", "refused", "format"],
        reason: str,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.wait_s = wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class ChatClient:
    """Posts conversations to `<url>/chat/completions`. Safe to share between threads."""

    def __init__(self, url: str, model: str, token_variable: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
            raise UserError(
                "degradation.language_model.url must look like http://127.0.0.1:8000/v1, without user or password; "
                "the token comes from the environment"
            )
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._token_variable = token_variable
        self._token = os.environ.get(token_variable, "").strip()
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: list[dict[str, str]], options: dict[str, Any]) -> str:
        """The text of the answer.

        Raises:
            RequestError: there is none; says what to do about it.
            UserError: no request can succeed: wrong token, model or address.
        """
        body = json.dumps({"model": self._model, "messages": messages, **options}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return self._masked(_content(self._read(response)))
        except urllib.error.HTTPError as error:
            with error:
                raise self._http_error(error, options) from None
        except TimeoutError:
            raise RequestError("broken", f"server: no answer within {self._timeout_s:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise RequestError("broken", f"server: no answer within {self._timeout_s:g} s") from None
            raise RequestError("unreachable", f"server: {self._clean(error.reason)}") from None
        except (OSError, http.client.HTTPException) as error:
            raise RequestError("broken", f"server: connection lost ({type(error).__name__})") from None

    def _read(self, response: Any) -> bytes:
        """The body, bounded in size and in time also when it drips."""
        deadline, blocks, size = time.monotonic() + self._timeout_s, [], 0
        while block := response.read1(1 << 16):
            blocks.append(block)
            size += len(block)
            if size > _MAX_ANSWER_BYTES:
                raise RequestError("broken", "server: the answer is too large")
            if time.monotonic() > deadline:
                raise TimeoutError
        return b"".join(blocks)

    def _masked(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text

    def _clean(self, text: object) -> str:
        # Masked before it is cut, or half a token might stay.
        return self._masked(" ".join(str(text).split()))[:200]

    def _http_error(self, error: urllib.error.HTTPError, options: dict[str, Any]) -> Exception:
        code = error.code
        try:
            body = error.read(4096).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            body = ""
        if code in (401, 403):
            return UserError(
                f"the server at {self._url} refuses the token in ${self._token_variable} (HTTP {code}); set that "
                "environment variable, or degradation.language_model.token_variable"
            )
        if code == 402:
            # Every other prompt would be refused as well, and none of them is to blame.
            return UserError(
                f"the server at {self._url} wants payment (HTTP 402: {self._clean(body)}); what is done is kept; top "
                "up the account and run the same command again"
            )
        if code == 404 or 300 <= code < 400:
            return UserError(
                f"the server knows no {self._url} or no model '{self._model}' (HTTP {code}: {self._clean(body)}); "
                "mend degradation.language_model.url or .name"
            )
        if code in _OVERLOADED:
            return RequestError("busy", f"server: HTTP {code}", _retry_after(error.headers.get("Retry-After")))
        if code >= 500 or code == 408:
            return RequestError("broken", f"server: HTTP {code}")
        if "response_format" in options and ("response_format" in body or "schema" in body or code == 422):
            return RequestError("format", f"server: HTTP {code}")
        return RequestError("refused", f"server: HTTP {code} ({self._clean(body)[:80]})")


def _content(body: bytes) -> str:
    try:
        answer = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RequestError("broken", "server: not a chat completion") from None
    if isinstance(answer, str):
        return answer
    raise RequestError("broken", "server: not a chat completion")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number or a date; None when the header is absent or unreadable."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
