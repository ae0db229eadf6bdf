# The whole set-up and every command run inside .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements.lock)
PIP_LOCKED := $(PIP) --require-hashes --no-deps

.PHONY: help install lock spark peers repro audit test fuzz results ui bench clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 12

install: $(INSTALLED)  ## Make .venv and install the locked packages

# The locks are complete, so nothing is resolved. torch's build for the CPU is taken where pip finds one. pip compiles on one
# core, compileall on all; it fails at a file that needs a newer Python, which nothing here imports.
$(INSTALLED): requirements.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tapestry needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip index versions torch 2>/dev/null | tr ', ' '\n\n' | sed -n 's/^$(TORCH)+cpu$$/torch==&/p' > .venv/torch.txt
	$(PIP_LOCKED) --no-compile --constraint .venv/torch.txt --requirement requirements.lock
	test -s .venv/torch.txt || $(PIP_LOCKED) --no-compile --requirement requirements-cuda.lock
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@

lock:  ## Resolve the locks anew (UPGRADE=--upgrade: the newest versions that pyproject.toml allows)
	$(PYTHON) .ci/lock.py $(UPGRADE)

spark: .venv/.spark  ## Add PySpark, for sessionize.engine: spark (Java 17 or newer is yours to install)

.venv/.spark: requirements-spark.lock | $(INSTALLED)
	$(PIP_LOCKED) --requirement requirements-spark.lock
	touch $@

# implicit joins .venv. RecTools wants NumPy below 2, so it has an environment of its own.
peers: .venv/.peers .venv-rectools/.installed  ## Add implicit and RecTools, for the baselines als, sasrec, hstu_rectools

.venv/.peers: requirements-peers.lock | $(INSTALLED)
	$(PIP_LOCKED) --requirement requirements-peers.lock
	touch $@

.venv-rectools/.installed: requirements-rectools.txt
	test -x .venv-rectools/bin/python || $(PYTHON) -m venv .venv-rectools
	.venv-rectools/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

repro: install  ## Run the pipeline that params.yaml describes, from raw files to the report
	$(RUN) tapestry doctor --fix
	$(RUN) dvc repro

audit: install  ## Check that every figure leads back to the code, parameters and raw rows that made it
	$(RUN) tapestry audit

test: install  ## Lint, type-check and run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(RUN) $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 25

INPUTS ?= 2000
SEED ?= 0

fuzz: install  ## Try ingest on generated raw files, against a plain-Python reader (minutes; INPUTS=2000 SEED=0)
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py --inputs $(INPUTS) --seed $(SEED)

results: install  ## Print the README's tables from tracked results, and those of the studies from which they come
	$(RUN) python studies/readme_tables.py
	$(RUN) python studies/quality/quality_study.py show
	$(RUN) python studies/recent_counts/recent_counts_study.py show
	$(RUN) python studies/averaging/averaging_study.py show
	$(RUN) python studies/side_by_side/side_by_side_study.py show
	$(RUN) python studies/neighbours/neighbours_study.py show
	$(RUN) python studies/peers/peers_study.py show

ui: install  ## Browse the MLflow store on http://127.0.0.1:5000
	$(RUN) tapestry ui

SEQUENCES ?= data/sequences

bench: export MKL_CBWR = AUTO  # the processor's own arithmetic, as the alternatives have it
bench: install .venv-rectools/.installed  ## Measure everything beside its alternatives (hours; SEQUENCES=folder)
	for name in attention step growth evaluation scaling resume ingestion sessionizing; do $(BIN)/python benchmarks/$$name.py || exit; done
	for name in throughput quality epoch; do $(BIN)/python benchmarks/$$name.py $(SEQUENCES) || exit; done

clean:  ## Remove what the pipeline made (DVC's cache stays)
	find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf models checkpoints metrics/*.parquet reports
