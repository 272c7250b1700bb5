# make demo, make test: both install what they need into .venv, with the Python on PATH.
#
# make test ARGS="tests/unit -x" passes arguments to pytest; make PYTHON=python3.12 ... selects a Python.

PYTHON ?= python3
VENV := .venv
ARGS ?=

.PHONY: help demo test clean

help:
	@echo "make demo   run the demonstration; it needs no server. With yours: ARGS='--host user@host'"
	@echo "make test   run the tests, about ten minutes. Some of them: ARGS='tests/unit -x'"
	@echo "make clean  remove .venv, which the other targets create with PYTHON=$(PYTHON)"
	@echo "README.md explains how to use the package, CONTRIBUTING.md how to change it."

demo: $(VENV)/stamp
	$(VENV)/bin/python -m ssh_service demo $(ARGS)

test: $(VENV)/stamp
	$(VENV)/bin/python -m pytest $(ARGS)

$(VENV)/stamp: setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot create a virtual environment (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[tests,demo]'
	@touch $@

clean:
	rm -rf $(VENV)
