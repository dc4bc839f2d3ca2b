# Short targets; CI and people use the same ones. `make demo` first, `make test` next.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT := $(VENV)/.built
# What mypy passes over in tests and benchmarks: lists of mixed types, what is None until it is set.
LOOSELY := $(addprefix --disable-error-code=,arg-type assignment index list-item misc type-var union-attr var-annotated)
SOURCES := pyproject.toml $(shell find native -name target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print)
CARGO := cargo
MANIFEST := --manifest-path native/Cargo.toml

.PHONY: demo test bench lint build clean

demo: build ## a store from real files: created, changed, listed, checked, restored, compared
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: build ## all tests; what this machine lacks is skipped by name, or fails with SNAP_STRICT=1
	$(CARGO) test --quiet --release $(MANIFEST) --package snapstore-core
	$(BIN)/python -m pytest -n auto -rfEs

bench: build ## the table of docs/benchmarks.md
	$(BIN)/python -m benchmarks.runner

lint: build ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:. $(BIN)/mypy --config-file= --explicit-package-bases --ignore-missing-imports --check-untyped-defs $(LOOSELY) tests benchmarks
	$(BIN)/python -m mypy.stubtest snapstore._native
	$(BIN)/lint-imports
	$(CARGO) fmt $(MANIFEST) --all --check
	$(CARGO) clippy --quiet --release $(MANIFEST) --workspace --all-targets -- -D warnings

build: $(BUILT) ## the package with its core, in .venv

$(BUILT): $(SOURCES)
	@PYTHON="$(PYTHON)" scripts/prerequisites.sh build
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@[ -x $(BIN)/maturin ] || $(BIN)/python -m pip install --quiet 'maturin>=1.7,<2'
	@echo "building (the first time takes some minutes)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

clean: ## removes everything that was built
	rm -rf $(VENV) native/target dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f src/snapstore/*.so src/snapstore/_native/*.so
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
