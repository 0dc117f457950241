# make demo   set up and run the main job: train, evaluate, draw (minutes on two CPU cores)
# make test   set up and run lint, types and tests
# make docs   set up and build the documentation in docs/_build/html; a warning is an error
# make clean  remove the virtual environment and the built documentation (runs/ stays)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: demo test docs clean

demo: $(VENV)/demo.stamp
	@if [ -f $(RUN)/config.json ]; then \
	  $(BIN)/jaxcifar train demo --workdir $(RUN) --resume; \
	else \
	  $(BIN)/jaxcifar train demo --workdir $(RUN); \
	fi
	$(BIN)/jaxcifar evaluate $(RUN)
	$(BIN)/jaxcifar visualize $(RUN) --image 8
	@echo "Look at $(RUN)/figures/: curves.png and activations_8.png"

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

docs: $(VENV)/docs.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxcifar needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) docs/_build
