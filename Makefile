# make demo   set up and run the main job: train, evaluate, draw (minutes on two CPU cores)
# make test   set up and run lint, types and tests
# make clean  remove the virtual environment (runs/ stays)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: demo test clean

demo: $(VENV)/demo.stamp
	@if [ -f $(RUN)/config.json ]; then \
	  $(BIN)/python scripts/train.py demo --workdir $(RUN) --resume; \
	else \
	  $(BIN)/python scripts/train.py demo --workdir $(RUN); \
	fi
	$(BIN)/python scripts/evaluate.py $(RUN)
	$(BIN)/python scripts/visualize.py $(RUN) --image 8
	@echo "Look at $(RUN)/figures/: curves.png and activations_8.png"

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxcifar needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV)
