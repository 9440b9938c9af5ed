# Everything a person types. `make` alone lists the targets; the README explains them.
# Plain pip only. Each target installs what it needs into ./.venv, once per content of the locks.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help demo test dev lint audit pictures lock clean install install-test system-demo system-test instance

ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3.12 python3; do \
  $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && command -v $$name && break; done)
endif
VENV := .venv
RUN := $(VENV)/bin
SET ?= cpu
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --retries 8 --timeout 120 --no-deps
LOCKED := $(RUN)/python $(PIP_INSTALL) --only-binary :all: --require-hashes

# A stamp is named by what it installed, so an edited lock installs again and an unchanged one costs nothing.
STAMP := $(VENV)/.installed-$(shell cat locks/{build,source,torch_cpu,torch_cuda,$(SET)}.lock pyproject.toml | sha256sum | cut -c1-16)
TEST_STAMP := $(VENV)/.tools-$(shell sha256sum < locks/test.lock | cut -c1-16)

# The embedded default: everything below one folder of this checkout, no network, no telemetry.
export AMR_HOME ?= $(CURDIR)/.amr
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK := 1
export VLLM_NO_USAGE_STATS := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export HF_HUB_DISABLE_TELEMETRY := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
OWN_DAGSTER_HOME := $(DAGSTER_HOME)
export DAGSTER_HOME ?= $(AMR_HOME)/dagster_home
DAGSTER_PORT ?= 3000
MLFLOW_PORT ?= 5000

help:
	echo "make demo   the whole micro study on this machine, then its tables"
	echo "make test   lint and every test"
	echo "make dev    Dagster and MLflow on loopback; Ctrl-C stops both"
	echo "make lint   ruff, pyright, import contracts, advisories"
	echo "make audit  bill of materials, and published advisories for what is installed"
	echo "make pictures  the pictures of the guides, taken anew"
	echo "make lock   re-make locks/ from pyproject.toml (UPGRADE=name lets one package move)"
	echo "make clean  remove .venv, caches and .amr"

demo: install system-demo instance
	$(RUN)/amr demo

# Two files of tests at a time: one alone waits for servers and clocks half of its time.
test: install-test system-test lint
	$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright
	$(RUN)/lint-imports
	$(RUN)/python locks/audit.py

# What a browser sees of a deployment, into the guides: docs/pictures.
pictures: install-test system-test
	AMR_SCREENSHOTS="$(CURDIR)/docs/pictures" $(RUN)/python -m pytest amr_pipeline_tests/test_deployed_graph.py

# What is installed, as a bill of materials, and its published advisories; fails where there is one.
audit: install-test
	$(RUN)/python locks/audit.py --strict

# Each server gets a process group of its own, so that both and all their children can be ended, whichever way this
# target is stopped; a plain background process would ignore Ctrl-C.
dev: install system-demo instance
	set -m
	mkdir -p "$(AMR_HOME)"
	echo "MLflow   http://127.0.0.1:$(MLFLOW_PORT)   (log: $(AMR_HOME)/mlflow.log)"
	echo "Dagster  http://127.0.0.1:$(DAGSTER_PORT)   (Ctrl-C stops both)"
	$(RUN)/mlflow server --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1 \
	  --backend-store-uri "sqlite:///$(AMR_HOME)/mlflow.db" \
	  --default-artifact-root "$(AMR_HOME)/mlflow_artifacts" > "$(AMR_HOME)/mlflow.log" 2>&1 &
	mlflow=$$!
	$(RUN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(DAGSTER_PORT) &
	dagster=$$!
	stop() {
	  trap '' INT TERM
	  kill -INT -- -$$dagster 2>/dev/null || true
	  kill -TERM -- -$$mlflow 2>/dev/null || true
	  wait || true
	}
	trap 'stop; exit 0' INT TERM
	wait -n || true  # one of them ended by itself
	stop
	exit 1

# uv resolves in seconds and writes the hashes of every file; it lives in a throwaway environment.
lock:
	test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv-lock/bin/python locks/make_locks.py $(foreach name,$(UPGRADE),--upgrade $(name))

clean:
	rm -rf .venv .venv-lock .amr build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(STAMP)

install-test: $(STAMP) $(TEST_STAMP)

$(STAMP):
	if [ -z "$(PYTHON)" ]; then
	  echo "no Python 3.11 or 3.12 on the path; name one: make PYTHON=... $(MAKECMDGOALS)" >&2
	  exit 1
	fi
	if ! $(RUN)/python -m pip --version >/dev/null 2>&1; then
	  rm -rf $(VENV)
	  $(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call apt_get,python3-venv); } \
	    || { echo "missing python3-venv: install it, or use a Python that has ensurepip" >&2; exit 1; }
	  $(PYTHON) -m venv $(VENV)
	fi
	echo "installing the locked packages into $(VENV), once: 4 to 10 minutes, about 5 GB"
	# DeepSpeed is published as source only, and its wheel cannot be built where torch is installed: it gets an
	# environment of its own. Nothing else is built, so no other package runs code of its own while installing.
	rm -rf $(VENV)/build $(VENV)/wheels
	$(PYTHON) -m venv $(VENV)/build
	$(VENV)/build/bin/python $(PIP_INSTALL) --only-binary :all: --require-hashes -r locks/build.lock
	$(VENV)/build/bin/python -m pip wheel -qq --no-deps --no-build-isolation --require-hashes -r locks/source.lock \
	  --wheel-dir $(VENV)/wheels
	# Where pip knows a CPU build of torch (a folder or index it was told of), that one; else the index's own, which
	# brings CUDA's libraries (3 GB more) and works without a GPU too.
	if [ $(SET) = cpu ]; then
	  $(LOCKED) -r locks/torch_cpu.lock 2>/dev/null || {
	    echo "  pip knows no CPU build of torch: installing the CUDA build, 3 GB more"
	    $(LOCKED) -r locks/torch_cuda.lock
	  }
	fi
	$(LOCKED) -r locks/$(SET).lock
	$(RUN)/python $(PIP_INSTALL) $(VENV)/wheels/*.whl
	$(RUN)/python $(PIP_INSTALL) --no-build-isolation --editable .
	rm -rf $(VENV)/build $(VENV)/wheels $(VENV)/.installed-*
	touch $@

$(TEST_STAMP): $(STAMP)
	$(LOCKED) -r locks/test.lock
	rm -f $(VENV)/.tools-*
	touch $@

# apt-get where the user may, else false; the caller says what is missing.
define apt_get
command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] && may= || { sudo -n true 2>/dev/null && may=sudo; }; } \
  && echo "installing $(1) with apt-get" \
  && $$may env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null \
  && $$may env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null
endef

# $(1) program, $(2) package, $(3) what happens without it
define system_package
command -v $(1) >/dev/null || { $(call apt_get,$(2)); } || echo "missing $(2): $(3)"
endef

system-demo:
	$(call system_package,bwrap,bubblewrap,code verdicts will be undecided (sandbox_unavailable))
	$(call system_package,g++,g++,programs in C++ cannot be verified)

system-test: system-demo
	$(call system_package,chromium,chromium,browser tests will be skipped)
	$(call system_package,pg_ctlcluster,postgresql,tests of the deployment will be skipped)

# A DAGSTER_HOME of the user's own is left as it is.
instance:
	if [ -z "$(OWN_DAGSTER_HOME)" ]; then
	  mkdir -p "$(DAGSTER_HOME)"
	  cp dagster.yaml "$(DAGSTER_HOME)/dagster.yaml"
	fi
