# make demo, make test: both bring what they need into .venv, with the Python at hand.
#
# make test ARGS="tests/unit -x" gives pytest arguments; make PYTHON=python3.12 ... picks a Python.

PYTHON ?= python3
VENV := .venv
ARGS ?=

.PHONY: help demo test clean

help:
	@echo "make demo   watch it work, without a server; on yours: ARGS='--host user@host'"
	@echo "make test   run the tests, some minutes; a part of them: ARGS='tests/unit -x'"
	@echo "make clean  remove .venv, which the others make with PYTHON=$(PYTHON)"
	@echo "README.md says how to use it, CONTRIBUTING.md how to change it."

demo: $(VENV)/stamp
	$(VENV)/bin/python -m ssh_service demo $(ARGS)

test: $(VENV)/stamp
	$(VENV)/bin/python -m pytest $(ARGS)

$(VENV)/stamp: setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[tests,demo]'
	@touch $@

clean:
	rm -rf $(VENV)
