# Every target installs what it needs: a virtual environment in .venv, and, as root, the C++ packages.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP_PACKAGES := g++ cmake libzmq3-dev cppzmq-dev libflatbuffers-dev flatbuffers-compiler libboost-dev
ON_ALL_CORES := -n logical --dist worksteal
LANGUAGE_PACKAGES := gfortran libgsl-dev r-base-core

# $(call apt_install,PACKAGES,WITHOUT): installs Debian packages that are missing, or says what is done without them.
define apt_install
command -v dpkg >/dev/null || { echo "not a Debian system: install what corresponds to $(1) by hand; until then $(2)"; exit 0; }; \
missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  echo "== installing$$missing"; mkdir -p build; \
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; } >build/apt.log 2>&1 \
    || echo "apt-get failed (see build/apt.log): $(2)"; \
else \
  echo "Packages are missing:$$missing"; \
  echo "Install them with 'apt-get install$$missing' (as root); until then $(2)."; \
fi
endef

.PHONY: help demo test test-all lint format bench venv cpp languages clean

help:
	@echo "make demo      the main job: train on a tau decay simulator, infer one event, write figures to results/demo"
	@echo "make test      the quick tests (under 10 minutes on 2 cores)"
	@echo "make test-all  all tests; those of properties try examples of their own in every run"
	@echo "make lint      ruff and mypy --strict"
	@echo "make bench     speed against pyprob driving the same simulator"
	@echo "make format    ruff format, clang-format where there is one"

demo: venv cpp
	$(BIN)/python examples/demo.py --output results/demo

test: venv cpp languages
	$(BIN)/python -m pytest -m "not slow" $(ON_ALL_CORES)

test-all: venv cpp languages
	$(BIN)/pip install --quiet -c constraints.txt -e '.[fuzz]' || echo "atheris cannot be installed: the coverage-guided fuzzing is left out"
	PPX_EXPLORE=1 $(BIN)/python -m pytest $(ON_ALL_CORES)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv cpp
	$(BIN)/python -m benchmarks

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@if command -v clang-format >/dev/null; then git ls-files '*.hpp' '*.cpp' | xargs clang-format -i; fi

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "== installing the Python packages into $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv && $(PYTHON) -m venv $(VENV); \
	  else \
	    echo "Python's venv module is missing: install it with 'apt-get install python3-venv' (as root)"; exit 1; \
	  fi; }
	$(BIN)/pip install --quiet -c constraints.txt torch -e '.[dev]'
	@touch $@

# The C++ simulators need a compiler and a few headers; tests also run simulators in other languages. What is missing is
# installed as root, else named: without a C++ toolchain everything runs on the Python simulators, and tests say what they skip.
cpp:
	@$(call apt_install,$(CPP_PACKAGES),everything runs on the Python simulators)

languages:
	@$(call apt_install,$(LANGUAGE_PACKAGES),tests of these languages are skipped)

clean:
	rm -rf $(VENV) build results .mypy_cache .ruff_cache .pytest_cache
