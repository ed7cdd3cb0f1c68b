# Targets create .venv on first use. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
INSTALLED := $(VENV)/.installed
TORCH := $(shell grep '^torch==' $(LOCK))
IMAGE_TOOL ?= docker
REGISTRY ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-quick check format bench train images package release manifests deploy lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Download, serve and draw one picture on this machine
	$(BIN)/python demo/run.py

serve: $(INSTALLED) ## Serve the demo model on http://127.0.0.1:8080, and its jobs on 8081
	$(BIN)/python demo/run.py --serve

# One OpenMP thread per process: with more, the processes compete for the cores.
test: $(INSTALLED) ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-quick: $(INSTALLED) ## Run the quick tests, which load no pipeline and start no server
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --quick --numprocesses=auto --maxprocesses=4 --dist=loadfile

check: $(INSTALLED) ## Check lint, formatting, types and generated files; write nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python hack/render_manifests.py --check
	$(BIN)/python hack/document_settings.py --check
	$(BIN)/python hack/document_families.py --check
	$(BIN)/python hack/document_parameters.py --check
	$(BIN)/python hack/document_metrics.py --check
	$(BIN)/python hack/document_figures.py --check

format: $(INSTALLED) ## Format the code and apply the linter's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Run the benchmarks (an hour on two cores) and update bench/results/ and the documents
	$(BIN)/python -m bench.serving
	$(BIN)/python -m bench.concurrency
	$(BIN)/python -m bench.overload
	$(BIN)/python -m bench.drains
	$(BIN)/python -m bench.previews
	$(BIN)/python -m bench.start demo --compile
	$(BIN)/python -m bench.start sd15
	$(BIN)/python -m bench.turns
	$(BIN)/python -m bench.weights
	$(BIN)/python -m bench.capacity
	$(BIN)/python -m bench.gpu
	$(BIN)/python -m bench.memory
	$(BIN)/python bench/download.py
	$(BIN)/python bench/download_faults.py
	$(BIN)/python bench/jobs.py
	$(BIN)/python hack/document_figures.py

train: $(INSTALLED) ## Retrain the demo model (20 minutes on two cores)
	$(BIN)/python demo/train.py
	$(BIN)/python demo/evaluate.py

images: ## Build all images; REGISTRY=host/ is a prefix, FLAGS=--push pushes for amd64 and arm64
	$(PYTHON) hack/build_images.py --tool="$(IMAGE_TOOL)" --registry="$(REGISTRY)" \
	    --version="$(VERSION)" $(FLAGS) -- $(BUILD_ARGS)

package: $(INSTALLED) ## Package the chart into dist/; REGISTRY=host/ is where its images are
	$(BIN)/python hack/package_chart.py --registry="$(REGISTRY)" $(FLAGS)

release: ## Check version, changelog and working tree, and tag the commit
	$(PYTHON) hack/release.py $(FLAGS)

manifests: $(INSTALLED) ## Generate manifests, schema and tables from the chart, settings and results
	$(BIN)/python hack/render_manifests.py
	$(BIN)/python hack/document_settings.py
	$(BIN)/python hack/document_families.py
	$(BIN)/python hack/document_parameters.py
	$(BIN)/python hack/document_metrics.py
	$(BIN)/python hack/document_figures.py

deploy: $(INSTALLED) ## Deploy manifests/ to the current cluster; FLAGS="--namespace images" adds flags
	$(BIN)/python -m deploy up $(FLAGS)

lock: $(INSTALLED) ## Update the lock files (see CONTRIBUTING.md)
	sh hack/lock.sh $(BIN)

clean: ## Remove everything that the other targets created
	rm -rf $(VENV) dist demo/output bench/results/*.tmp .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Install torch first: together with the rest, newer versions of pip may select another build.
$(INSTALLED): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	    || { echo "$(PYTHON) is not Python 3.11 to 3.13: set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	@# So that `python bench/start.py` finds the packages as `python -m bench.start` does.
	@echo '$(CURDIR)' > "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/repository.pth"
	@touch $@
