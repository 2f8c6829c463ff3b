"""``seo-rec``, and ``python -m seo_rec`` in this interpreter."""

from __future__ import annotations

import sys

from seo_rec.process import EXIT_INTERRUPTED


def main() -> None:
    """Load and run the command line; Ctrl-C while it loads ends it with one line, too."""
    try:
        from seo_rec.cli.main import main as command

        command()
    except KeyboardInterrupt:
        left = "nothing was begun; the same command starts again"
        print(f"\nstopped by Ctrl-C: {left}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
