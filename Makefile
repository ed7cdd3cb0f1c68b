# Every target sets up what it needs in .venv, once. `make help` lists them.

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
.PHONY: help demo serve test check format bench train images manifests deploy lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Weights to server to picture, on this machine
	$(BIN)/python demo/run.py

serve: $(INSTALLED) ## Serve the demo model on http://127.0.0.1:8080
	$(BIN)/python demo/run.py --serve

# Two processes of one OpenMP thread each: those of several would starve each other on two cores.
test: $(INSTALLED) ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile

check: $(INSTALLED) ## Lint, formatting, types, and manifests that equal the chart; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python hack/render_manifests.py --check
	$(BIN)/python hack/document_settings.py --check
	$(BIN)/python hack/document_families.py --check
	$(BIN)/python hack/document_parameters.py --check
	$(BIN)/python hack/document_figures.py --check

format: $(INSTALLED) ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure (an hour on two cores) and write the tables; results in bench/results/
	$(BIN)/python -m bench.serving
	$(BIN)/python -m bench.concurrency
	$(BIN)/python -m bench.gpu
	$(BIN)/python -m bench.memory
	$(BIN)/python bench/download.py
	$(BIN)/python hack/document_figures.py

train: $(INSTALLED) ## Train the demo model again (20 minutes on two cores)
	$(BIN)/python demo/train.py
	$(BIN)/python demo/evaluate.py

images: ## Build both images; REGISTRY=host/ goes in front, IMAGE_TOOL=buildah works too
	$(IMAGE_TOOL) build --tag $(REGISTRY)stable-diffusion-predictor:$(VERSION) $(BUILD_ARGS) .
	$(IMAGE_TOOL) build --file Dockerfile.downloader \
	    --tag $(REGISTRY)stable-diffusion-downloader:$(VERSION) $(BUILD_ARGS) .

manifests: $(INSTALLED) ## Write what derives from the chart, the code and the measurements
	$(BIN)/python hack/render_manifests.py
	$(BIN)/python hack/document_settings.py
	$(BIN)/python hack/document_families.py
	$(BIN)/python hack/document_parameters.py
	$(BIN)/python hack/document_figures.py

deploy: $(INSTALLED) ## Deploy manifests/ on the kubeconfig's cluster; FLAGS="--namespace images" and so on
	$(BIN)/python -m deploy up $(FLAGS)

lock: $(INSTALLED) ## Resolve the lock files again (see CONTRIBUTING.md)
	sh hack/lock.sh $(BIN)

clean: ## Remove what the targets above made
	rm -rf $(VENV) demo/output bench/results/*.tmp .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: a newer pip must not resolve it together with the rest to another build.
$(INSTALLED): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	    || { echo "$(PYTHON) is not Python 3.11 to 3.13: set PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	@touch $@
