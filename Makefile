# Each target sets up what it needs, in .venv.
#
#   make demo     the main job on the embedded default
#   make test     lint, types and tests; what continuous integration runs
#   make coverage the tests, and which lines they run
#   make test-gpu the tests that need a GPU, on a machine that has one
#   make test-oldest  the tests with the oldest torch and transformers that are supported, in build/oldest
#   make docs     the documentation site, in build/docs; warnings are errors
#   make check    lint and types alone
#   make clean    take away .venv and what the tools cached
#
# Another torch (a CPU or CUDA build of your choice, installed into .venv beforehand or not): make demo CONSTRAINTS=
# Another Python: make demo PYTHON=python3.13

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt

BIN := .venv/bin

.PHONY: demo test coverage test-gpu test-oldest docs check clean
.NOTPARALLEL:

demo: .venv/installed-demo
	$(BIN)/tutorkd demo

# A file's tests share what they need, so they stay together; the order of the files stays, as the longest have few tests.
test: check
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Measuring which lines are run costs about half as much processor time again.
coverage: .venv/installed-demo,dev
	$(BIN)/pytest --cov --numprocesses auto --dist loadfile --no-loadscope-reorder

test-gpu: .venv/installed-demo,dev
	$(BIN)/pytest -m gpu -rs

# The torch of the package index, which on Linux brings CUDA along; another build: make test-oldest OLDEST_TORCH=...
OLDEST_TORCH ?= torch==2.11.*

test-oldest:
	test -x build/oldest/bin/python || $(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install '$(OLDEST_TORCH)' 'transformers==5.17.*' 'accelerate==1.15.*' --editable '.[demo,dev]'
	build/oldest/bin/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

docs: .venv/installed-docs,dev
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

check: .venv/installed-demo,dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/typos

clean:
	rm -rf .venv .coverage .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# .venv/installed-EXTRAS says that the package is installed with these extras; made anew when what it asks for changes.
.venv/installed-%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install $(CONSTRAINTS:%=--constraint %) --editable '.[$*]'
	@touch $@
