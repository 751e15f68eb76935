# `make demo` and `make test` need Python 3.11 or later and make.
PYTHON ?= $(shell for version in 3.11 3.12 3.13; do \
	python$$version -m venv --help > /dev/null 2>&1 && echo python$$version && break; done)
CORES ?= 2
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
INSTALLED := .venv/.installed
DETECTORS := .venv/.detectors
S3 := .venv/.s3
# snakefmt calls shfmt, which is installed beside it.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-all test-slurm test-gridengine fuzz kills lint bench-faces bench-loader bench-train bench-predict bench-dag bench-makespan bench-evaluate kaggle-upload ui report lock schema docs clean

demo: $(INSTALLED)
	$(SNAKEMAKE) --configfile config/demo.yaml --quiet host rules
	$(BIN)/snakemake --configfile config/demo.yaml --report results/report.html --quiet all
	$(BIN)/unmask summary

# What CI runs. Tests marked `serial` measure time or memory: they run when no other test does.
test: lint $(DETECTORS) $(S3)
	$(BIN)/pytest -n $(CORES) -m "not slow and not serial"
	$(BIN)/pytest -m "serial and not slow"

# All tests that this machine can run; each test that it cannot run is skipped with the reason.
test-all: lint $(DETECTORS) $(S3)
	$(BIN)/pytest -n $(CORES) -m "not serial"
	$(BIN)/pytest -m serial

# The stages on the hostile files, damaged in another way for each seed.
SEEDS ?= 0 1 2
fuzz: $(INSTALLED)
	UNMASK_FUZZ_SEEDS="$(SEEDS)" $(BIN)/pytest -m "" tests/hostile

# Runs of the workflow killed at KILLS random moments; -s prints the jobs that were running.
KILLS ?= 12
kills: $(INSTALLED)
	UNMASK_KILLS=$(KILLS) $(BIN)/pytest -m "" -s tests/workflow/test_interrupted.py

# The demo on a Slurm that the tests start, and its list of jobs; needs root.
test-slurm: $(INSTALLED)
	{ command -v slurmctld && command -v munged; } > /dev/null || { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; }
	$(BIN)/pytest -m slurm -s tests/workflow/test_slurm.py

# The first stages on a Grid Engine that the tests start; needs root.
GRID_ENGINE := gridengine-master gridengine-exec gridengine-client
test-gridengine: $(INSTALLED)
	command -v sge_qmaster > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(GRID_ENGINE); }
	$(BIN)/pytest -m gridengine -s tests/workflow/test_gridengine.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/hadolint Dockerfile
	$(BIN)/snakemake --lint

# Needs ffmpeg and real clips (UNMASK_REAL_DATA); docs/benchmarks.md has what it printed.
bench-faces: $(INSTALLED)
	$(BIN)/python tests/benchmark/bench_faces.py

# Needs no data; docs/benchmarks.md has what it printed.
bench-loader: $(INSTALLED)
	$(BIN)/python tests/benchmark/bench_loader.py

# The training loop beside bare steps of the same model; BENCH="--backbone … --precision bf16-mixed".
BENCH ?=
bench-train: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/benchmark/bench_train.py $(BENCH)

# What a test set of 4,000 videos would take: BENCH="--bundle results/kaggle/unmask --videos DIR".
bench-predict: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/benchmark/bench_predict.py $(BENCH)

# A dry run of the whole of DFDC.
bench-dag: $(INSTALLED)
	$(BIN)/python tests/benchmark/bench_dag.py

# How long DFDC would take on 1, 16 and 128 cores.
bench-makespan: $(INSTALLED)
	$(BIN)/python tests/benchmark/bench_makespan.py

# An evaluation of tables of DFDC's size.
bench-evaluate: $(INSTALLED)
	$(BIN)/python tests/benchmark/bench_evaluate.py

# Upload the bundle and its notebook; needs the `kaggle` command, logged in, and kaggle.owner set.
BUNDLE ?= results/kaggle/unmask
kaggle-upload:
	@command -v kaggle > /dev/null || { echo "pip install kaggle, and log in: kaggle auth login" >&2; exit 2; }
	@# `create` exits with 0 where the data set is there already.
	id=$$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["id"])' $(BUNDLE)/dataset-metadata.json) && \
	if kaggle datasets status "$$id"; then kaggle datasets version -p $(BUNDLE) -m "$$(date -u +%F)"; \
	else kaggle datasets create -p $(BUNDLE); fi
	kaggle kernels push -p $(BUNDLE)

# MLflow at PORT; without one at 5000, or at a free port if that is taken.
ui: $(INSTALLED)
	@port=$${PORT:-$$($(BIN)/python -c "import socket; s = socket.socket(); \
	s.bind(('127.0.0.1', 5000 if socket.socket().connect_ex(('127.0.0.1', 5000)) else 0)); \
	print(s.getsockname()[1])")} && echo "MLflow: http://127.0.0.1:$$port" && \
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $$port

# What is generated from unmask.config; a test fails when it drifts.
schema: $(INSTALLED)
	$(BIN)/unmask schema

# The documentation site in dist/site; a dead link is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Exact versions of everything, from the ranges in pyproject.toml.
lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra app --extra slurm --extra cluster-generic --extra lite --extra postgres \
		--python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --no-annotate --output-file requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The packages of the optional detectors.
$(DETECTORS): $(INSTALLED) requirements-detectors.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-detectors.txt
	touch $@

# Snakemake's plugin for buckets, and a local S3 server.
$(S3): $(INSTALLED) requirements-s3.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-s3.txt
	touch $@

clean:
	rm -rf results logs benchmarks resources/demo
