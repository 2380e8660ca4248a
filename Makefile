# bkctl's doors: each target makes its own .venv where there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format lint types imports bench bench-docs proto clean
.DEFAULT_GOAL := check

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/python -m compileall -q bkctl
	touch $(STAMP)

demo: $(STAMP)  ## sample store, plan, backup, verify, restore
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: $(STAMP)  ## the whole test suite
	$(BIN)/pytest

check: format lint types imports test  ## what CI runs

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

bench: $(STAMP)  ## measure backup speed here, every codec; BENCH="--runs 5" for more
	$(BIN)/bkctl bench --codec all $(BENCH)

bench-docs: $(STAMP)  ## make the benchmark page's tables and chart from docs/benchmark.json
	$(BIN)/bkctl bench --from docs/benchmark.json --chart docs/benchmark.svg \
		--page docs/benchmark.md >/dev/null

# Code that an older generator made runs with the protobuf of its major version and of the next.
PROTO_VENV := .proto-venv

proto:  ## generate the protobuf code again after a change in bkctl/proto
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet 'grpcio-tools==1.76.0'
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. bkctl/proto/*.proto
	rm -rf $(PROTO_VENV)

clean:
	rm -rf $(VENV) $(PROTO_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
