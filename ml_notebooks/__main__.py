"""`python -m ml_notebooks`, and the program `mlnb`: both begin here, where nothing of weight is read yet."""

import sys


def main() -> None:
    """Run `mlnb`; Ctrl-C while its modules are still being read ends it without a traceback, with exit status 130."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        print("mlnb: Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
