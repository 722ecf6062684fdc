"""The data rooms against their bars, and beside what one would take instead: a large file, a contract, a profile, personal data.

    python benchmarks/data.py [ingest | contracts | profile | privacy] [options]

Runs the scripts of benchmarks/data, one after the other, or the one that is named, with its options (`--help` lists them).
Exit status 1 when one of them missed a bar.
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("ingest", "contracts", "profile", "privacy")


def main() -> int:
    """Run the parts that are asked for and return whether one failed."""
    words = sys.argv[1:]
    if words and words[0] not in PARTS:
        print(f"There is no part `{words[0]}`: name one of {', '.join(PARTS)}, or none for all.", file=sys.stderr)
        return 2
    chosen, options = (words[:1], words[1:]) if words else (PARTS, [])
    folder = Path(__file__).with_suffix("")
    ended = [subprocess.run([sys.executable, str(folder / f"{part}.py"), *options]).returncode for part in chosen]
    return int(any(ended))


if __name__ == "__main__":
    sys.exit(main())
