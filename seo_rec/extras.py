"""How a part of the project that is not installed is added."""

from __future__ import annotations


def installing(extra: str) -> str:
    """What to type for an extra of ``pyproject.toml``; the package is on no index.

    Args:
        extra: Its name, such as ``train`` or ``s3``.

    Returns:
        The end of a message: ``pip install '.[EXTRA]' in the folder of the repository``.
    """
    return f"pip install '.[{extra}]' in the folder of the repository"
