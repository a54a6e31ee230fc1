# Two commands matter: `make run` serves the app, `make test` checks everything. Both make their own .venv.
PYTHON ?= python3
PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run warm check test test-fast test-nightly mutants bench load image golden study profile shots clean

help:
	@echo "make run        serve the app at http://localhost:$(PORT) (PORT=... to change)"
	@echo "make test       everything: style, types, import rules, laws, oracles, parity, pages, browser"
	@echo "make test-fast  the same without browser and slow tests, on fewer worlds"
	@echo "make test-nightly  laws on 10,000 worlds a rule and 20,000 worlds kernel against twin: hours"
	@echo "make mutants    plant bugs in the kernel one at a time and see which test catches each: a quarter of an hour"
	@echo "make check      style, types, import rules and words only"
	@echo "make bench      time the engine and the page, write bench.json"
	@echo "make load       fifty visitors for five minutes against a server of its own (LOAD='--visitors 10 --minutes 1')"
	@echo "make image      build the container image shadow-price (deploy/README.md says how to run it)"
	@echo "make golden     compute the stored evidence over seeds again and print what changed"
	@echo "make study      rules from linear programs against the best heuristics, and the findings: half an hour"
	@echo "make map        every rulebook over the map of When heuristics win: under half an hour; SHADOW_PRICE_DASK=<address> uses a cluster"
	@echo "make profile CSV=my-gpu.csv  fit measured steps; the page Calibration then lists the profile"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Shadow Price needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11 run"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	# the kit is tested on a CPU: PyTorch's own index has the small build, PyPI on Linux the one with CUDA
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 0 --timeout 10 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	@echo "Shadow Price: http://localhost:$(PORT) (the first start compiles the simulator, about half a minute)"
	@$(BIN)/python -m streamlit run app.py --server.address localhost --server.port $(PORT) --server.headless true

warm: $(VENV)/.run
	$(BIN)/python -m ui.warm

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py tests/test_text.py

test: check
	$(BIN)/python -m pytest tests --ignore=tests/perf -n auto --dist loadfile

test-fast: $(VENV)/.dev
	LAW_INSTANCES=20 PARITY_INSTANCES=300 $(BIN)/python -m pytest tests --ignore=tests/perf --ignore=tests/browser -m "not slow and not browser"

test-nightly: $(VENV)/.dev
	LAW_INSTANCES=10000 PARITY_INSTANCES=20000 $(BIN)/python -m pytest tests/laws tests/parity tests/engine/test_jit_modes.py
	BOUND_INSTANCES=4000 $(BIN)/python -m pytest tests/oracles/test_engine_bounds.py
	SOLVER_INSTANCES=10000 $(BIN)/python -m pytest tests/oracles/test_scheduling_bounds.py tests/oracles/test_eviction_bounds.py tests/solvers/test_prefix_tree.py tests/solvers/test_tail.py tests/solvers/test_fluid.py
	HINDSIGHT_INSTANCES=20 $(BIN)/python -m pytest tests/effects/test_p01_mc_sf_optimum.py

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants

bench: $(VENV)/.dev
	-$(BIN)/python -m tests.perf.page
	-$(BIN)/python -m tests.perf.bench
	-$(BIN)/python -m tests.perf.browser

load: $(VENV)/.dev
	$(BIN)/python -m tests.perf.load $(LOAD)

image:
	docker build --tag shadow-price .

golden: $(VENV)/.dev
	$(BIN)/python -m ui.evidence
	@git --no-pager diff --stat -- assets/evidence

study: $(VENV)/.dev
	$(BIN)/python -m measure.study
	$(BIN)/python -m measure.findings
	@git --no-pager diff --stat -- assets/evidence

map: $(VENV)/.dev
	$(BIN)/python -m measure.sweep
	@git --no-pager diff --stat -- assets/evidence

profile: $(VENV)/.run
	@$(BIN)/python -m measure.profile $(CSV)

shots: $(VENV)/.dev
	$(BIN)/python -m tests.browser.shots

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
