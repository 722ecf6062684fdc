"""Writes constraints.txt: one pinned version of everything that any extra needs, on every supported Python.

Usage: python tools/constraints.py [PYTHON …]    (default: python3.11 python3.12 python3.13)

A pin that suits the newest patch release of a Python may refuse an older one: name the oldest that is in use.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.11", "3.12", "3.13")
HEADER = """\
# Every version that `make run` and `make test` install, for all extras; found with Python {pythons}.
# Written by `make constraints`: do not edit. The ranges that the package promises are in pyproject.toml.
"""


def requirements(project):
    """What the project and all its extras ask for, its references to itself left out."""
    extras = project["optional-dependencies"].values()
    asked = project["dependencies"] + [line for extra in extras for line in extra]
    return sorted({line for line in asked if not line.startswith(project["name"])})


def version_of(python):
    """The version, such as 3.12.1, of an interpreter; exits with a message when it does not run."""
    question = "import platform; print(platform.python_version())"
    try:
        return subprocess.run(
            [python, "-c", question], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            f"`{python}` does not run. Name one interpreter of each of Python {', '.join(SUPPORTED)}: "
            "make constraints PYTHONS='/path/to/python3.11 …'"
        )


def resolve(python, asked):
    """Name → version of all that pip would install for an interpreter."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-qq"]
    command += ["--dry-run", "--ignore-installed", "--report=-", *asked]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if shown.returncode:
        sys.exit(f"pip found no set of versions for `{python}`; its reason stands above.")
    found = [item["metadata"] for item in json.loads(shown.stdout)["install"]]
    return {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}


def merge(resolved):
    """One line a package; one a Python where the versions differ."""
    lines = []
    for name in sorted({name for pins in resolved.values() for name in pins}):
        versions = {python: pins[name] for python, pins in resolved.items() if name in pins}
        if len(set(versions.values())) == 1:
            lines.append(f"{name}=={next(iter(versions.values()))}")
        else:
            pairs = versions.items()
            lines += [f'{name}=={version} ; python_version == "{python}"' for python, version in pairs]
    return lines


def main(pythons):
    """Resolve for every interpreter, then write the file."""
    versions = {python: version_of(python) for python in pythons or [f"python{name}" for name in SUPPORTED]}
    chosen = {version.rpartition(".")[0]: python for python, version in versions.items()}
    if missing := sorted(set(SUPPORTED) - set(chosen)):
        sys.exit(f"No interpreter was named for Python {', '.join(missing)}: make constraints PYTHONS='…'")
    asked = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    lines = merge({name: resolve(chosen[name], asked) for name in SUPPORTED})
    header = HEADER.format(pythons=", ".join(versions[chosen[name]] for name in SUPPORTED))
    (ROOT / "constraints.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} pins")


if __name__ == "__main__":
    main(sys.argv[1:])
