"""Long prompt files without holding them: counted once, then read again wherever they are needed."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator

from ..files import Digest
from .sources import PromptRecord, Skipped, iterate_prompts, no_prompt, read_prompts


class PromptStream(Collection[PromptRecord]):
    """The unique prompts of a source, in its order; every iteration reads the file again.

    What is held is a digest per unique prompt while it is read, to find repeats; no prompt stays in memory.

    Attributes:
        skipped: what was left out on the way, by reason.
        repaired: what was mended.
        digest: of all ids in order, as `degrade_prompts` records it.

    Raises:
        UserError: as `read_prompts`.
    """

    def __init__(self, source: str, column: str = "prompt", part: Container[str] | None = None) -> None:
        self._source, self._column, self._part = source, column, part
        self.skipped, self.repaired = Skipped(), Skipped()
        digest, self._count = Digest(), 0
        for record in iterate_prompts(source, column, self.skipped, self.repaired, part):
            digest.add(record.id)
            self._count += 1
        if not self._count:
            raise no_prompt(source, self.skipped)
        self.digest = digest.text()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PromptRecord]:
        return iterate_prompts(self._source, self._column, Skipped(), Skipped(), self._part)

    def __contains__(self, record: object) -> bool:
        return any(other == record for other in self)


def open_prompts(
    source: str,
    column: str = "prompt",
    limit: int | None = None,
    seed: int = 0,
    part: Container[str] | None = None,
) -> Collection[PromptRecord]:
    """The prompts that `read_prompts` gives, held in memory only where they are a drawn sample (`limit`)."""
    return PromptStream(source, column, part) if limit is None else read_prompts(source, column, limit, seed, part)
