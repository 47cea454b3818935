# Each line calls one program. `make demo` and `make test` are all a newcomer needs.
.PHONY: env demo fleet test matrix lint bench fmt lock
PYTHON ?= python3
BIN := .venv/bin

env: .venv/.stamp

.venv/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgekit needs python3 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "edgekit needs venv: install the package python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: env
	$(BIN)/edgekit demo $(if $(ASK),--ask "$(ASK)")

# Real devices in containers, to play with, until Ctrl-C; needs root.
fleet: env
	$(BIN)/python -m tests.fleet $(DEVICES) $(if $(ARM64),--arm64=$(ARM64))

test: env
	$(BIN)/python -m tests

# Every architecture of the builder, about half an hour; docs/architectures.md is made of it.
matrix: env
	$(BIN)/python -m tests.matrix --write

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python -m benchmarks --write
	$(BIN)/python -m benchmarks.recipes --write

# Needs uv, and a CPU build of torch where uv finds it.
lock:
	uv pip compile --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --override containers/runtime/without.in containers/runtime/runtime.in -o containers/runtime/runtime.lock
	uv pip compile --generate-hashes --universal --python-version 3.11 --no-header --no-annotate containers/runtime/pictures.in -o containers/runtime/pictures.lock
	uv pip compile --generate-hashes --python-platform x86_64-manylinux_2_28 --python-version 3.11 --no-header --no-annotate containers/builder/toolchain.in -o containers/builder/toolchain.lock
