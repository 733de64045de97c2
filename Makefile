# Two commands: `make run` and `make test`. Both set everything up in .venv the first time.
PYTHON ?= python3
BIN := .venv/bin
ROOMS := sim clients server analysis conf

.PHONY: run test trust lint clean
.DELETE_ON_ERROR:

run: .venv/installed  ## fine-tune the embedded model on the embedded users, under user-level privacy
	OMP_WAIT_POLICY=PASSIVE $(BIN)/userdp run

test: .venv/installed  ## the whole test suite
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

trust: .venv/installed  ## the long checks: 500 configurations, 50 kills, mutations, neighbours (about 30 minutes on 2 cores)
	PYTHONPATH=tests OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m trust

lint: .venv/installed .venv/typed/userdp  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# An editable install maps `userdp` to the folders by an import hook, which type checkers cannot see: they read links.
.venv/typed/userdp: | .venv/installed
	mkdir -p $@
	ln -s $(CURDIR)/sim/userdp/__init__.py $(CURDIR)/sim/userdp/py.typed $(ROOMS:%=$(CURDIR)/%) $@/

clean:  ## remove the environment and the caches of the tools
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
