# Every command of the day. A machine needs Python 3.11 to 3.13, make and git; the rest is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first interpreter that starts, is of a supported version and can make an environment.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	if $$name -c '$(SUITABLE)' >/dev/null 2>&1; then command -v $$name; break; fi; done)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ASKED := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run lab dashboard test soak check clean-notebooks export outputs flights-outputs readme lint docs bench wheel constraints

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## run the reference pipeline, flights, on real data (installs what is missing)
	$(BIN)/mlnb run flights

lab: $(VENV)/.run  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

dashboard: $(VENV)/.run  ## serve the dashboards
	$(BIN)/mlnb dashboard

test: $(VENV)/.test  ## run every test and every library notebook; coverage under 90 % fails
	$(BIN)/python -m compileall -q ml_notebooks  # once, also where PYTHONDONTWRITEBYTECODE would have each kernel do it
	$(BIN)/python -m pytest -n 2 -p no:nbval --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=xml

soak: $(VENV)/.test  ## run the long versions of the fault and concurrency tests
	SOAK=1 $(BIN)/python -m pytest -m soak -n 2 --dist loadfile tests

check: $(VENV)/.test  ## clean, export and README change nothing; then lint
	$(BIN)/python tools/sync.py
	$(MAKE) --no-print-directory lint

clean-notebooks: $(VENV)/.test  ## strip the notebooks of what is not to be committed
	$(BIN)/nbdev-clean

export: $(VENV)/.test  ## write the package from the notebooks
	$(BIN)/nbdev-export

outputs: $(VENV)/.test  ## run the library notebooks, the guides and the README's, and keep their outputs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=ERROR --ExecutePreprocessor.store_widget_state=False nbs/index.ipynb $$(find nbs/guides nbs/library -name '*.ipynb')
	$(BIN)/nbdev-clean

flights-outputs: run  ## run the flights pipeline and keep its outputs in its notebooks
	$(BIN)/python tools/outputs.py "$$(ls -d reports/flights/*/ | tail -n 1)" nbs/pipelines/flights
	$(BIN)/nbdev-clean

readme: $(VENV)/.test  ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

lint: $(VENV)/.test  ## ruff on notebooks and scripts, mypy on the generated modules
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.test  ## build the documentation site into _docs (needs Quarto)
	$(BIN)/python tools/docs.py

bench: $(VENV)/.test  ## run the benchmarks
	set -e; for script in benchmarks/[a-z]*.py; do $(BIN)/python "$$script"; done

wheel: $(VENV)/.test  ## build the wheel and the source distribution into dist
	$(BIN)/python -m build

# PYTHONS='…' names one interpreter of each supported version, where PATH does not call them python3.11, 3.12 and 3.13.
constraints: $(VENV)/.pip  ## pin the newest versions that fit, for Python 3.11, 3.12 and 3.13
	$(BIN)/python tools/constraints.py $(PYTHONS)

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11, 3.12 or 3.13 with its venv module is needed: make run PYTHON=/path/to/python3'; exit 1; }
	@'$(PYTHON)' -c '$(SUITABLE)' || { echo '$(PYTHON) is not Python 3.11 to 3.13 with its venv module.'; exit 1; }
	'$(PYTHON)' -m venv $(VENV)

$(VENV)/.pip: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@touch $@

$(VENV)/.run: $(ASKED) | $(BIN)/python
	$(INSTALL) -e '.[lab,demo,privacy]'
	@touch $@

$(VENV)/.test: $(ASKED) | $(BIN)/python
	$(INSTALL) -e '.[all]'
	@touch $@ $(VENV)/.run
