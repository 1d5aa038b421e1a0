# make quickstart   environment, then text -> tokenizer -> training -> .nemo -> completion -> benchmark
# make test         environment, then the default tests
# make test-kernels Triton (190 MB to download, 0.7 GB) into .triton, then the GPU's kernels without a GPU
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Test processes at once. A file's tests stay in one process, which imports the engine and fills its caches once.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
STAMP := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
# In a log: the downloads, without the names of what is looked at and the list of all packages at the end.
SHORT = sed -u -e '/^Collecting/d; /^Requirement already/d; /Using cached/d; /\.metadata/d' \
	-e 's/^\(.\{110\}\).*/\1 .../'

.PHONY: quickstart test test-slow test-cuda test-kernels test-image gpu-check lint clean

quickstart: $(STAMP)
	@$(BIN)/python -m tools.quickstart $(ARGS)

test: $(STAMP)
	@$(PYTEST) $(ARGS)

test-slow: $(STAMP)
	@$(PYTEST) -m slow $(ARGS)

# On a machine with a GPU. All other tests run on its CPU.
test-cuda: $(STAMP)
	@PARAM_RECIPES_TEST_CUDA=1 $(PYTEST) -m cuda tests/cuda $(ARGS)

# What torch of constraints.txt brings on a machine with a GPU. torch's CPU build brings none, and computes in other ways
# where it finds one: so it has a directory of its own, which no other target looks into.
TRITON_VERSION := 3.7.1
TRITON := $(CURDIR)/.triton
TRITON_STAMP := $(TRITON)/.installed-$(TRITON_VERSION)
WITH_TRITON = PYTHONPATH=$(TRITON):$(CURDIR) TRITON_CACHE_DIR=$(TRITON)/cache

# The kernels in Triton's interpreter, and compiled for the cards that users have. Neither needs a GPU.
test-kernels: $(TRITON_STAMP)
	@$(WITH_TRITON) TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) tests/kernels/test_interpreted.py $(ARGS)
	@$(WITH_TRITON) $(BIN)/python -m pytest --numprocesses $(WORKERS) tests/kernels/test_compiled.py $(ARGS)

$(TRITON_STAMP): $(STAMP)
	@rm -rf $(TRITON)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TRITON) triton==$(TRITON_VERSION)
	@touch $@

# Builds the CPU image and runs the quick start in it: as root, with buildah, podman, crun and mmdebstrap. DIR keeps what
# was built (9 GB) for the next time.
DIR ?= $(CURDIR)/outputs/image
test-image: $(STAMP)
	@PARAM_RECIPES_TEST_IMAGE=$(abspath $(DIR)) $(PYTEST) -m slow tests/docker/test_image.py $(ARGS)

# ARGS="--nanochat PATH --only param1,tests"
gpu-check: $(STAMP)
	@$(BIN)/python -m benchmarks.gpu_check --out outputs/gpu_check $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck nemo_inference.sh docker/*.sh docker/slurm/*.sh docker/slurm/*.sbatch
	$(BIN)/hadolint Dockerfile

# Installed again only when what is pinned has changed.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; install python3.11 or set PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing $$(grep -c == constraints.txt) packages into $(VENV) with $$($(PYTHON) --version), once: 4 to 7"
	@echo "minutes and 2.4 GB with PyTorch's CPU build, a third of it PyTorch; its CUDA build is several GB more"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if test -t 1; then $(PIP_INSTALL); else $(PIP_INSTALL) --progress-bar off | $(SHORT); fi
	@$(BIN)/python -m pip check
	@touch $@

clean:
	rm -rf $(VENV) $(TRITON) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
