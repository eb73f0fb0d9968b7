# Towline's commands. `make` alone prints what there is; every target sets up what it needs by itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
DEFAULT_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/towline
CACHE ?= $(DEFAULT_CACHE)
override CACHE := $(abspath $(CACHE))
BUS ?= sqlite
LAB ?= demo
KEEP ?=
T ?=

# A cache folder of its own gets a work environment of its own: that is what proves the cold way.
VENV := $(if $(filter $(abspath $(DEFAULT_CACHE)),$(CACHE)),$(CURDIR)/.venv,$(CACHE)/venv)
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
PY := $(VENV)/bin/python
LAB_SOURCE := services/cli/src/towline_cli/lab

export TOWLINE_CACHE := $(CACHE)
export UV
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_CACHE_DIR := $(CACHE)/uv-cache
export UV_PYTHON_DOWNLOADS := never
export RUFF_CACHE_DIR := $(CACHE)/ruff
export MYPY_CACHE_DIR := $(CACHE)/mypy

.PHONY: help
help: ## print this
	@echo "Towline carries a commit from a push to healthy pods."
	echo
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | while IFS='|' read -r name text; do
	  printf '  make %-13s %s\n' "$$name" "$$text"
	done
	echo
	echo "  BUS=kafka          the demo on a real Kafka"
	echo "  LAB=<name>         the demo under another name, beside the first; down: only that one"
	echo "  KEEP=1             the demo is left running"
	echo "  T=<name>           only tests that match it"
	echo "  CACHE=<folder>     keeps all downloads and builds there (now $(CACHE))"
	echo
	echo "  Needs Debian 12 and root; elsewhere: docker compose up --build"

# `$(call preflight,PURPOSE)`: says what this machine lacks, before anything is installed.
define preflight
@command -v python3 >/dev/null || { echo "missing: Python 3.11 or newer runs Towline; none was found: apt-get install python3 python3-venv, or, in containers: docker compose up --build" >&2; exit 1; }
python3 -S $(LAB_SOURCE)/preflight.py $(1)
endef

.PHONY: setup
setup: ## install the Python workspace (uv and .venv)
	$(call preflight,setup)
	if [ ! -x "$(PY)" ]; then
	  echo "installs the Python workspace with uv $(UV_VERSION): into $(CACHE) and $(VENV)"
	  echo "(what more a command installs or changes, it says before it does)"
	fi
	if [ ! -x "$(UV)" ]; then
	  mkdir -p "$(CACHE)"
	  python3 -m venv "$(CACHE)/uv-$(UV_VERSION)"
	  "$(CACHE)/uv-$(UV_VERSION)/bin/pip" install --quiet --disable-pip-version-check --cache-dir "$(CACHE)/pip" uv==$(UV_VERSION)
	fi
	"$(UV)" sync $(if $(wildcard $(PY)),--quiet) --all-packages --frozen

.PHONY: demo
demo: ## the main job on real parts: a push becomes a running change, bad ones are refused
	$(call preflight,$(if $(filter kafka,$(BUS)),demo-kafka,demo))
	$(MAKE) setup
	exec "$(VENV)/bin/towline" demo --bus "$(BUS)" --name "$(LAB)" $(if $(KEEP),--keep)

.PHONY: down
down: setup ## stop and remove what demo and test left running, and list it
	@exec "$(VENV)/bin/towline" down $(if $(filter command environment,$(firstword $(origin LAB))),--name "$(LAB)")

.PHONY: test
test: ## make check and every test, on real parts
	$(call preflight,test)
	$(MAKE) setup
	exec "$(PY)" tests/run.py all $(if $(T),-k "$(T)")

.PHONY: test-fast
test-fast: setup ## the tests that need no server
	@exec "$(PY)" tests/run.py fast $(if $(T),-k "$(T)")

.PHONY: test-nightly
test-nightly: ## as test, with the full counts of histories and seeds: some 3 hours
	$(call preflight,test)
	$(MAKE) setup
	exec "$(PY)" tests/run.py nightly $(if $(T),-k "$(T)")

.PHONY: check
check: setup ## lint, format, types, import contracts, lock file, schemas, generated documents
	@exec "$(PY)" tests/run.py check

.PHONY: docs
docs: setup ## write the documents that are made from code
	@"$(PY)" -m towline.docs
	"$(PY)" -m towline_cli.docs

.PHONY: bench
bench: ## measure all figures and write docs/figures.md
	$(call preflight,test)
	$(MAKE) setup
	exec "$(PY)" bench/run.py
