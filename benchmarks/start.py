"""How long commands take to start: `import ml_notebooks`, `mlnb --help`, and what they stand on.

    python benchmarks/start.py [--repeats 15]
"""

import argparse
import statistics
import subprocess
import sys
import time

WAYS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import ml_notebooks": [sys.executable, "-c", "import ml_notebooks"],
    "import typer": [sys.executable, "-c", "import typer"],
    "mlnb --help": [sys.executable, "-m", "ml_notebooks", "--help"],
    "import ml_notebooks.data.warehouse": [sys.executable, "-c", "import ml_notebooks.data.warehouse"],
}


def main():
    """Time each way, in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    times = {name: [] for name in WAYS}
    for turn in range(repeats + 1):
        for name, command in WAYS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:  # the first turn fills the file cache
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["python -c pass"])
    print("| what | median s | slowest s | above plain python s |\n|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {max(values):.3f} | {middle - base:.3f} |")


if __name__ == "__main__":
    main()
