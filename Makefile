# `make demo` reconstructs the built-in scene; `make help` lists all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= auto

# Stamps: a target is rebuilt only if its dependencies changed.
MADE := $(VENV)/.made
TORCH := $(VENV)/.torch
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
FAST_INSTALLED := $(VENV)/.installed-fast
SCENE_INSTALLED := $(VENV)/.installed-scene

.DEFAULT_GOAL := help
MINUTES ?= 30
# What the user gives reaches the recipes through the environment, as it is: names may hold quotes, $ and ;.
override PHOTOS := $(value PHOTOS)
override MINUTES := $(value MINUTES)
override TORCH_INDEX_URL := $(value TORCH_INDEX_URL)
export PHOTOS MINUTES TORCH_INDEX_URL
BENCH := $(BIN)/python benchmarks
.PHONY: help setup setup-dev demo peek scene test bench bench-full gpu-check lint clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install into .venv

setup-dev: $(INSTALLED_DEV) ## Install with the tools of tests and linters

demo: $(FAST_INSTALLED) ## Train, mesh, render and evaluate the built-in scene; PUBLISHED=1: with demo.conf
	$(BIN)/python -m idr.cli.demo.command $(if $(PUBLISHED),--published)

peek: $(INSTALLED) ## Mesh and render the small model in trained_models/ (a minute)
	$(BIN)/python -m idr.cli.demo.command --peek

ifneq ($(PHOTOS),)
scene: $(SCENE_INSTALLED) ## Photographs to a colored mesh: make scene PHOTOS=folder [MINUTES=30]
	$(BIN)/python -m idr.cli.photos.command --max_minutes "$$MINUTES" -- "$$PHOTOS"
else
scene:
	@echo "error: no photographs; expected make scene PHOTOS=folder [MINUTES=30]" >&2; exit 2
endif

test: $(INSTALLED_DEV) ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

gpu-check: $(INSTALLED_DEV) ## On a machine with a GPU: parity, host reads per step, timings, Triton's kernels (minutes)
	$(BIN)/python benchmarks/gpu_check.py

bench: $(INSTALLED_DEV) ## Benchmarks of steps, meshes, scaling and the matrix-product limit, into results/ (10 minutes)
	mkdir -p results
	$(BENCH)/scaling.py --rays 512 2048 --resolution 64 --repetitions 3 --epochs 3 --json results/scaling.json
	$(BENCH)/mesh.py --resolution 128 --whole_under 20 --repetitions 1 --json results/mesh.json
	$(BENCH)/limit.py --json results/limit.json
	$(BENCH)/report.py results/scaling.json results/mesh.json results/limit.json --out results/benchmarks.md

bench-full: $(INSTALLED_DEV) ## The benchmarks at all sizes, into results/full/ (hours)
	mkdir -p results/full
	$(BENCH)/scaling.py --json results/full/scaling.json
	$(BENCH)/mesh.py --resolution 256 512 --json results/full/mesh.json
	$(BENCH)/limit.py --repetitions 15 --json results/full/limit.json
	$(BENCH)/report.py results/full/scaling.json results/full/mesh.json results/full/limit.json --out results/full/benchmarks.md

lint: $(INSTALLED_DEV) ## Run the linter and the type checker
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## Remove .venv and caches, but no results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build code/*.egg-info
	find code tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "error: $(PYTHON) is missing or not Python 3.10 or newer; give another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "error: $(PYTHON) cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2; exit 2; }
	@touch $@

# torch is installed first, so that TORCH_INDEX_URL, if set, chooses its build (CPU or a CUDA version).
$(TORCH): $(MADE)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX_URL),--index-url "$$TORCH_INDEX_URL") 'torch>=2.6' 'torchvision>=0.21'
	@touch $@

$(INSTALLED): $(TORCH) pyproject.toml setup.py
	$(BIN)/python -m pip install -e .
	@touch $@

# Compiled kernels.
$(FAST_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e '.[fast]'
	@touch $@

# All that photographs and videos may need.
$(SCENE_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e '.[photos]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@
