"""What is committed: no trace of a machine, notebooks in their agreed form, exact pins, a listed Makefile."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
INDEX = r"(?:https?|file)://\S*/simple\b|--(?:extra-)?index-url|--find-links"  # a package index's address
OWN = {"test_repository.py"}  # names the patterns
SYSTEM_FOLDERS = {"/", "/usr", "/usr/local"}  # an interpreter may stand there, and every machine has them
TOO_LARGE = 300_000


def committed():
    """The files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode:
        return []
    return [ROOT / name for name in shown.stdout.split("\0") if name and (ROOT / name).is_file()]


NOTEBOOKS = sorted(path for path in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def below(folder):
    """The notebooks below a folder of nbs."""
    return [path for path in NOTEBOOKS if path.is_relative_to(ROOT / "nbs" / folder)]


def name_of(path):
    """A path's name in a test's id."""
    return str(path.relative_to(ROOT))


def cells_of(path):
    """A notebook's cells."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def machine_folders():
    """The folders of the machine that this runs on."""
    found = {
        ROOT,
        ROOT.parent,
        Path.home(),
        Path(tempfile.gettempdir()),
        Path(sys.prefix),
        Path(sys.base_prefix),
    }
    return {str(folder) for folder in found | {folder.resolve() for folder in found}} - SYSTEM_FOLDERS


def leaks(text, folders):
    """The machine's folders and the index addresses that a text names."""
    named = "|".join(re.escape(folder) + r"(?=/\w|$)" for folder in sorted(folders, key=len, reverse=True))
    return [found.group() for found in re.finditer(rf"(?<![\w.~/-])(?:{named})|{INDEX}", text, re.MULTILINE)]


def text_of(path):
    """A file's text; nothing for a binary one."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8")


def test_no_machine_path_is_committed():
    files = [path for path in committed() if path.name not in OWN]
    if not files:
        pytest.skip("not a git checkout")
    found = {name_of(path): leaks(text_of(path), machine_folders()) for path in files}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("reads /home/ada/project/data", ["/home/ada"]),
        ("ends in /home/ada", ["/home/ada"]),
        ('"/home/ada/x"', ["/home/ada"]),
        ("https://example.org/home/ada/x", []),
        ("~/home/ada/x", []),
        ("/home/adam/x", []),
        ("pip --index-url x", ["--index-url"]),
        ("https://example.org/simple/numpy", ["https://example.org/simple"]),
        ("https://example.org/simpler", []),
    ],
)
def test_leaks_are_seen(text, found):
    assert leaks(text, {"/home/ada"}) == found


PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "data/README.md", "reports/README.md")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)|\b(?:src|href)=[\"']([^\"']+)", re.MULTILINE)


def relative_links(text):
    """The targets of a page's links that stay inside the repository, without what follows `#` or `?`; code is no link."""
    prose = re.sub(r"^(```|~~~).*?^\1|`[^`\n]+`(?!\])", "", text, flags=re.MULTILINE | re.DOTALL)
    found = ["".join(groups) for groups in LINK.findall(prose)]
    inside = [re.split("[#?]", link)[0] for link in found if not re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE)]
    return [link for link in inside if link]


def reachable(files):
    """Some files and the folders that they are in, as texts."""
    return {str(path) for file in files for path in (file, *file.parents) if path.is_relative_to(ROOT)}


def dead(page, text, there):
    """The relative links of a page's text that lead nowhere that is reachable."""
    return [link for link in relative_links(text) if os.path.normpath(page.parent / link) not in there]


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_to_a_committed_file(name):
    files = committed()
    if not files:
        pytest.skip("not a git checkout")
    assert dead(ROOT / name, (ROOT / name).read_text(encoding="utf-8"), reachable(files)) == []


def test_every_relative_link_of_a_notebook_leads_to_a_committed_file():
    files = committed()
    if not files:
        pytest.skip("not a git checkout")
    notebooks = [file for file in files if file.suffix == ".ipynb"]
    prose = {file: "\n".join("".join(cell["source"]) for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "markdown") for file in notebooks}
    there = reachable(files)
    assert {str(file): lost for file, text in prose.items() if (lost := dead(file, text, there))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see [this](../CONTRIBUTING.md#floors) and [that](data.csv 'title')", []),
        ("[`code`](../docs/) of [the folder](..)", []),
        ("[gone](../gone.md#there)", ["../gone.md"]),
        ("[`gone`](gone.py) and ![figure](<figures/x.png>)", ["gone.py", "figures/x.png"]),
        ("[outside](../../elsewhere.md) [above](../..)", ["../../elsewhere.md", "../.."]),
        ("[named][1]\n\n[1]: gone.md", ["gone.md"]),
        ('<img src="gone.png"> <a href="https://example.org/x">', ["gone.png"]),
        ("[site](https://example.org) [mail](mailto:a@b.c) [here](#here)", []),
        ("`[x](gone.md)`\n\n```\n[x](gone.md)\n```\n", []),
    ],
)
def test_dead_links_are_seen(text, found):
    files = [ROOT / name for name in ("CONTRIBUTING.md", "docs/a.md", "pages/data.csv", "pages/README.md")]
    assert dead(ROOT / "pages" / "README.md", text, reachable(files)) == found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_is_small(path):
    assert path.stat().st_size < TOO_LARGE


@pytest.mark.parametrize("path", below("library"), ids=name_of)
def test_library_notebook_begins_with_its_module_title_and_subtitle(path):
    first, second = ("".join(cell["source"]) for cell in cells_of(path)[:2])
    assert re.fullmatch(r"#\| default_exp [a-z_]+(\.[a-z_]+)*", first.strip())
    assert re.match(r"# \S.*\n\n?> \S", second)


@pytest.mark.parametrize("path", below("pipelines"), ids=name_of)
def test_pipeline_notebook_has_one_parameters_cell(path):
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells_of(path)) == 1


def test_site_covers_every_notebook():
    globs = yaml.safe_load((ROOT / "_quarto.yml").read_text())["project"]["render"]
    names = [path.relative_to(ROOT / "nbs").as_posix() for path in NOTEBOOKS]
    assert [
        name for name in names if not any(fnmatch(name, glob.replace("/**/", "/*")) for glob in globs)
    ] == []


def test_docs_say_how_to_get_quarto(tmp_path):
    environment = os.environ | {"PATH": str(tmp_path)}
    command = [sys.executable, "tools/docs.py"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "https://quarto.org/docs/get-started/" in shown.stderr


def test_bare_make_lists_every_target():
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make here")
    listed = subprocess.run([make], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE) == phony
    assert len(phony) > 10


def test_constraints_pin_exact_versions():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pin = re.compile(r'[a-z0-9-]+==[0-9][\w.+!]*( ; python_version == "3\.1[123]")?')
    assert len(lines) > 100
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in asked} - {project["name"]}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set(), "run `make constraints`"


def test_hooks_run_what_is_installed():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["nbdev-clean", "nbdev-export", "ruff", "mypy"]
    assert [
        h["id"]
        for h in hooks
        if not shutil.which(h["entry"].split()[0].split("/")[-1], path=Path(sys.executable).parent)
    ] == []


def test_ruff_reads_what_is_written_by_hand_and_only_that():
    command = [Path(sys.executable).parent / "ruff", "check", "--show-files", "ml_notebooks"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modules = [path for path in (ROOT / "ml_notebooks").rglob("*.py") if path.stat().st_size]
    written = {path for path in modules if "# AUTOGENERATED!" not in path.read_text() and path.name != "_modidx.py"}
    assert {Path(line) for line in shown.splitlines()} == written


def test_ci_runs_the_script_on_every_supported_python():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
