"""`python -m ml_notebooks` is `mlnb`."""

from .cli import main

main()
