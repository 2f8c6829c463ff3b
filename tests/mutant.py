"""One fault that a change could bring in, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``file`` the text ``before`` is replaced by ``after``.

    Args:
        name: What is wrong, in a few words with dashes.
        file: Path from the root of the project.
        before: Text that occurs exactly once in the file.
        after: What the fault makes of it.
        tests: The pytest node ids of which one at least must fail.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
