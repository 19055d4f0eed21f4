"""A language model behind an OpenAI-compatible server (vLLM, llama.cpp, Ollama, LM Studio, paid services)."""

from __future__ import annotations

import glob
import json
import math
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import content_id
from ..processes import this_process
from ..recipe import LanguageModel
from .http_client import ChatClient, RequestError
from .journal import Journal
from .language_model import Failure, Question

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
#: in a row, each after all its tries: then the server is down, not the prompt odd
_MAX_FAILURES = 20
#: answers may wait for the slowest one before them; this many per worker
_AHEAD = 4
#: when work stops, answers that are already under way get this long to arrive and be kept
_GRACE_S = 5.0


class _Pace:
    """At most `per_minute` requests start in a minute, evenly; a server that asks for a pause pauses everyone."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval_s = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopped: threading.Event) -> None:
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._interval_s
        stopped.wait(max(0.0, start - time.monotonic()))

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class ServerCompleter:
    """Answers questions over HTTP: concurrent, paced, patient, and with a journal so that nothing is paid for twice.

    Every try that fails for a reason that may pass (HTTP 408, 429, 5xx, timeouts, lost connections, nonsense) is
    repeated after a growing pause, or the one the server asks for. When tries are used up, a prompt counts as failed
    until the same command is given again; when the server stays busy or away, work stops with a `UserError`. Several
    processes share `concurrency` and `requests_per_minute` evenly, and read one another's journals when they start.
    """

    def __init__(self, settings: LanguageModel, journal: Path | None, first_pause_s: float = _FIRST_PAUSE_S) -> None:
        self._settings = settings
        self._client = ChatClient(settings.url, settings.name, settings.token_variable, settings.timeout_s)
        self._journal_path = journal
        self._first_pause_s = first_pause_s
        process = this_process()
        self._workers = max(1, settings.concurrency // process.count)
        self._pace = _Pace(settings.requests_per_minute and settings.requests_per_minute / process.count)
        self._formats: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._failures = 0
        self._fatal: Exception | None = None

    def complete(
        self, questions: Iterable[Question], schema: dict[str, object]
    ) -> Generator[str | Failure, None, None]:
        """One answer per question, in order; up to `concurrency` requests are under way at once."""
        named = {"name": "variants", "strict": True, "schema": schema}
        self._formats = [{"type": "json_schema", "json_schema": named}, {"type": "json_object"}, {}]
        stopped = threading.Event()
        tasks: queue.Queue[tuple[Question, queue.Queue[str | Failure | BaseException]] | None] = queue.Queue()
        journal = self._open_journal()
        workers = [
            threading.Thread(target=self._work, args=(tasks, journal, stopped), daemon=True)
            for _ in range(self._workers)
        ]
        for worker in workers:
            worker.start()
        try:
            yield from self._in_order(iter(questions), tasks)
        finally:
            stopped.set()
            for _ in workers:
                tasks.put(None)
            deadline = time.monotonic() + _GRACE_S
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
            if journal is not None and not any(worker.is_alive() for worker in workers):
                journal.close()

    def _open_journal(self) -> Journal | None:
        """This process's journal, with what other processes, now or in earlier attempts, have paid for."""
        path = self._journal_path
        if path is None:
            return None
        stem = path.name.partition(".answers")[0]
        return Journal(path, sorted(set(path.parent.glob(f"{glob.escape(stem)}.answers*.jsonl")) - {path}))

    def _in_order(self, questions: Iterator[Question], tasks: queue.Queue[Any]) -> Iterator[str | Failure]:
        waiting: list[queue.Queue[str | Failure | BaseException]] = []
        exhausted = False
        while True:
            while not exhausted and len(waiting) < self._workers * _AHEAD:
                question = next(questions, None)
                if question is None:
                    exhausted = True
                    break
                box: queue.Queue[str | Failure | BaseException] = queue.Queue(1)
                waiting.append(box)
                tasks.put((question, box))
            if not waiting:
                return
            answer = waiting.pop(0).get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _work(self, tasks: queue.Queue[Any], journal: Journal | None, stopped: threading.Event) -> None:
        while (task := tasks.get()) is not None:
            question, box = task
            try:
                box.put(self._answer(question, journal, stopped))
            except Exception as error:
                # Answers that came before are still read, then the reader meets this; nobody spends more requests.
                self._fatal = self._fatal or error
                stopped.set()
                box.put(self._fatal)

    def _key(self, question: Question) -> str:
        model = self._settings
        decides = [model.name, model.temperature, model.max_new_tokens, question.messages]
        return content_id(json.dumps(decides, ensure_ascii=False))

    def _answer(self, question: Question, journal: Journal | None, stopped: threading.Event) -> str | Failure:
        key = self._key(question)
        if journal is not None and (kept := journal.get(key)) is not None:
            return kept
        attempt = 0
        while True:
            self._pace.wait(stopped)
            if stopped.is_set():
                raise self._fatal or RuntimeError("stopped")
            chosen = self._formats[0]
            try:
                answer = self._client.ask(question.messages, self._options(chosen, question.seed))
            except RequestError as trouble:
                if trouble.kind == "refused":
                    return Failure(trouble.reason)
                if trouble.kind == "format":
                    self._give_up_format(chosen)
                    continue
                attempt += 1
                if attempt == self._settings.attempts:
                    return self._failed(trouble)
                self._rest(trouble, attempt, question.seed, stopped)
                continue
            if journal is not None:
                journal.put(key, answer)
            with self._lock:
                self._failures = 0
            return answer

    def _options(self, response_format: dict[str, Any], seed: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_new_tokens,
            "seed": seed,
        }
        return {**options, "response_format": response_format} if response_format else options

    def _give_up_format(self, refused: dict[str, Any]) -> None:
        with self._lock:
            if self._formats[0] is refused and len(self._formats) > 1:
                self._formats = self._formats[1:]

    def _rest(self, trouble: RequestError, attempt: int, seed: int, stopped: threading.Event) -> None:
        """Pause before the next try: as long as the server asks, else doubling, out of step with other workers."""
        spread = 0.75 + 0.5 * math.modf(seed * 0.6180339887)[0]
        pause = self._first_pause_s * 2 ** (attempt - 1) * spread
        pause = min(trouble.wait_s if trouble.wait_s is not None else pause, _LONGEST_PAUSE_S)
        if trouble.kind == "busy":
            self._pace.pause(pause)
        stopped.wait(pause)

    def _failed(self, trouble: RequestError) -> Failure:
        with self._lock:
            self._failures += 1
            failures = self._failures
        if trouble.kind in ("busy", "unreachable") or failures >= _MAX_FAILURES:
            raise UserError(
                f"degradation.language_model.url: {self._settings.url} gives no answers ({trouble.reason} after "
                f"{self._settings.attempts} tries); what is done is kept, run the same command again to go on"
            )
        return Failure(trouble.reason, passing=True)
