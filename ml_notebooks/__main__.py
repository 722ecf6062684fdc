"""`python -m ml_notebooks`, and the program `mlnb`: both begin here, where nothing of weight is read yet."""

import sys


def main() -> None:
    """Run `mlnb`; Ctrl-C while its modules are still being read ends it without a traceback, with exit status 130.

    nbformat imports jsonschema, which would compile 38 grammars for international addresses (1.2 s) where `rfc3987_syntax` is
    installed; no notebook has such addresses, so this process goes without.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        print("mlnb: Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
