"""`python -m edgekit` is the `edgekit` command."""

import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> None:
    """Entry point of the console script; Ctrl-C while the command starts is no traceback."""
    try:
        if "_EDGEKIT_COMPLETE" in os.environ:
            from edgekit.cli.complete import complete  # noqa: PLC0415  a shell asks at a key

            complete()
            return
        from edgekit.cli.main import main as command  # noqa: PLC0415  this takes a second or two

        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
