"""Ships the parts of a new workspace inside the wheel, as ml_notebooks/_workspace."""

import ast
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SKIP = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")


def workspace_parts():
    """The paths that `ml_notebooks.workspace.PARTS` lists, read without importing the package."""
    tree = ast.parse((ROOT / "ml_notebooks" / "workspace.py").read_text(encoding="utf-8"))
    named = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.literal_eval(named["PARTS"])


class BuildWithWorkspace(build_py):
    """Copies the parts into the build folder; an editable install reads them where they stand."""

    def run(self):
        """Build the modules, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "ml_notebooks" / "_workspace"
        shutil.rmtree(target, ignore_errors=True)
        for part in workspace_parts():
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target / part, ignore=SKIP)
            else:
                shutil.copyfile(ROOT / part, target / part)


setup(cmdclass={"build_py": BuildWithWorkspace})
