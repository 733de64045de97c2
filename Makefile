# Two commands: `make run` and `make test`. Both set everything up in .venv the first time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint clean
.DELETE_ON_ERROR:

run: .venv/installed  ## fine-tune the embedded model on the embedded users, under user-level privacy
	OMP_WAIT_POLICY=PASSIVE $(BIN)/userdp run

test: .venv/installed  ## the whole test suite
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	mkdir -p .venv/typed/userdp
	ln -sfn $(CURDIR)/sim/userdp/__init__.py $(CURDIR)/sim/userdp/py.typed $(foreach room,sim clients server analysis conf,$(CURDIR)/$(room)) .venv/typed/userdp/
	touch $@

clean:  ## forget the environment and the caches of the tools
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
