# make demo        set up, then the whole loop on real data with an embedded broker (ARGS="--until-done --json FILE" ends by itself)
# make test        set up, then every test that needs only Python
# make test-full   the tests that need more: Apache Kafka (KAFKA_HOME, else ../shared/kafka), Java and Prometheus, which
#                  .ci/packages installs on Debian
# make lint        ruff and strict mypy

PYTHON ?= python3
VENV ?= .venv
KAFKA_HOME ?= $(abspath ../shared/kafka)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-full lint clean

demo: $(READY)
	$(BIN)/efficientrec demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -m "not full" $(ARGS)

test-full: $(READY)
	KAFKA_HOME="$(KAFKA_HOME)" $(BIN)/python -m pytest -m full $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,evaluate,demo,traces,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
