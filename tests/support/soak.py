"""How long the tests run that have a long version: `make soak` runs exactly those, and sets SOAK."""

import os

import pytest

SOAK = os.environ.get("SOAK") == "1"
soak = pytest.mark.soak  # on every test that reads SOAK
