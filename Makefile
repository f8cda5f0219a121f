# All targets for people and CI. `make` without a target lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
  if command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,13))' 2>/dev/null; then echo $$p; break; fi; done)
INSTALLED := $(VENV)/.installed
# Without bytecode files every process would compile torch and MLflow again.
export PYTHONDONTWRITEBYTECODE :=
# Two workers with one thread each: with small tensors, more threads are not faster.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
PIN := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-header --no-annotate --quiet
LOCK := $(UV) pip compile pyproject.toml $(PIN)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Create .venv and install everything, again only when the requirements change

$(INSTALLED): requirements/dev.txt requirements/uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Atelier needs Python 3.11 or 3.12 (Triton's Python backend requires numpy < 2). Install one, or pass its path: make setup PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing into $(VENV) with $(PYTHON). This happens once, takes some minutes and needs 7 GB."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(UV) pip install --python $(PY) --quiet --require-hashes -r requirements/dev.txt
	@$(UV) pip install --python $(PY) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: setup ## Train, evaluate, promote, serve, swap and roll back an adapter; results in demo/
	@$(PY) -m commands.demo

.PHONY: test
test: setup lint types layering ## Run every check and test
	@$(PYTEST) tests/integration tests/unit --cov --cov-report=term:skip-covered

.PHONY: test-unit
test-unit: setup ## Run the unit tests: no network, no server, under a minute
	@$(PYTEST) tests/unit

.PHONY: test-integration
test-integration: setup ## Run the integration tests: real servers on loopback, with the miniature
	@$(PYTEST) tests/integration

.PHONY: charts
charts: setup ## Render, lint and test the Helm charts with every values file (needs Go; some tests also need make cluster-tools)
	@$(CLUSTER) tools helm helm-unittest
	@$(PYTEST) tests/charts tests/unit/test_charts.py

SCHEMAS ?= default
.PHONY: kubeconform
kubeconform: setup ## Validate the rendered charts against Kubernetes' schemas (downloads them; for custom resources use make charts)
	@$(CLUSTER) tools helm kubeconform
	@set -o pipefail; $(PY) -m tests.charts.rendered | $(TOOL)/kubeconform -strict -summary \
	  -kubernetes-version 1.34.0 -ignore-missing-schemas -schema-location '$(SCHEMAS)'

.PHONY: workflows
workflows: setup ## Lint the GitHub workflows with actionlint (built once)
	@$(CLUSTER) tools actionlint
	@$(TOOL)/actionlint

.PHONY: lint
lint: setup ## Check lint and format with Ruff
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

.PHONY: format
format: setup ## Fix what `make lint` reports
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: types
types: setup ## Check types with mypy: strict in the core, all signatures elsewhere
	@$(VENV)/bin/mypy

.PHONY: layering
layering: setup ## Check the import layering with import-linter
	@$(VENV)/bin/lint-imports --no-cache

TOOL := $(or $(ATELIER_CLUSTER_CACHE),$(HOME)/.cache/atelier-cluster)/bin
CLUSTER := $(PY) -m tests.cluster.local
# The cluster tests must use only the cluster that was started for them.
ON_IT := env -u KUBECONFIG -u ATELIER_REGISTRY
CLUSTER_TESTS ?= tests/cluster --ignore=tests/cluster/api -m "not actions"
export ATELIER_BEGAN := $(or $(ATELIER_BEGAN),$(shell date +%s))
export ATELIER_TARGET := $(or $(ATELIER_TARGET),$(MAKECMDGOALS))

.PHONY: tools
tools: setup ## Build selected tools of the cluster and the checks (TOOLS="helm actionlint"; needs Go)
	@$(CLUSTER) tools $(TOOLS)

.PHONY: cluster-tools
cluster-tools: setup ## Build the programs of the local cluster, again only when a pin changes (needs Go and root, installs Debian packages)
	@$(CLUSTER) tools

.PHONY: cluster
cluster: cluster-tools ## Start a real one-node Kubernetes with KServe and Kueue; print its kubeconfig (needs root)
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: setup ## Stop the local cluster and remove its data
	@$(CLUSTER) down

.PHONY: api
api: cluster-tools ## Test the Kubernetes clients on an API server without a cluster
	@$(PYTEST) tests/cluster/api

# Each step runs as a background job, so that the shell handles a signal at once, not after the step.
# Ctrl-C also reaches the step, which reports and ends by itself. SIGTERM ends the step. Later signals
# (make sends a SIGTERM of its own) do not interrupt the clean-up.
.PHONY: e2e
e2e: cluster-tools images ## Run the cluster tests: start the cluster, test, stop it (RESULTS=FILE writes a table)
	@step() { (trap - INT; exec "$$@") & wait $$!; }; \
	trap 'trap "" INT TERM HUP; kill %1 2>/dev/null; wait; exit 130' INT; trap 'trap "" INT TERM HUP; exit 143' TERM HUP; \
	trap 'kill $$(jobs -p) 2>/dev/null; wait; $(CLUSTER) down' EXIT; \
	$(PY) -m tests.cluster.images ahead & ahead=$$!; \
	step $(CLUSTER) up && { wait $$ahead || :; } && \
	step $(ON_IT) ATELIER_IMAGES=1 ATELIER_RESULTS=$(RESULTS) $(PYTEST) $(CLUSTER_TESTS)

.PHONY: e2e-soak
e2e-soak: ## Run 50 upgrades and 50 rollbacks under load (SOAK=50 sets the number); otherwise like e2e
	@ATELIER_SOAK=$(or $(SOAK),50) $(MAKE) --no-print-directory e2e CLUSTER_TESTS=tests/cluster/e2e/test_soak.py

.PHONY: e2e-actions
e2e-actions: setup ## Run the workflows on a cluster and kill promotions at each step; otherwise like e2e
	@$(CLUSTER) tools act
	@$(MAKE) --no-print-directory e2e CLUSTER_TESTS="tests/cluster/e2e -m actions"

.PHONY: miniature
miniature: setup ## Generate the training pictures and retrain the miniature SDXL (hours on two cores; resumable)
	@$(PY) -m models.miniature.build

.PHONY: calibrate
calibrate: setup ## Train and label adapters of the miniature, and choose the limits of its policy (hours on two cores; resumable)
	@$(PY) -m models.miniature.calibrate
	@$(VENV)/bin/atelier calibrate build/calibration --write --report docs/calibration.md

.PHONY: lock
lock: setup ## Update the lock files: every dependency pinned by hash, without index addresses
	@$(LOCK) --extra dev -o requirements/dev.txt
	@$(LOCK) --extra engine -c requirements/dev.txt -o requirements/engine.txt
	@$(LOCK) --extra train -c requirements/dev.txt -o requirements/train.txt
	@$(LOCK) --extra serve -c requirements/dev.txt -o requirements/serve.txt
	@printf '%s\n' torch torchvision | $(UV) pip compile - $(PIN) -c requirements/dev.txt -o requirements/torch.txt
	@echo "uv==$$($(UV) --version | cut -d' ' -f2)" | $(UV) pip compile - $(PIN) -o requirements/uv.txt
	@printf '%s\n' cyclonedx-bom hatchling uv | $(UV) pip compile - $(PIN) -c requirements/dev.txt \
	  -c requirements/uv.txt -o requirements/build.txt

.PHONY: images
images: setup ## Build the container images and list them (needs root, buildah and debootstrap; docs/images.md)
	@$(PY) -m tests.cluster.images build

# Targets of the release workflows. IMAGE is train or serve; REGISTRY is the registry to push to.
DOCKER ?= docker
SCAN ?= go run github.com/anchore/grype/cmd/grype@v0.121.2
IMAGE ?= serve
REGISTRY ?= localhost:5000
VERSION ?= $(shell git describe --tags --always)
# The image tag that the charts of that version use
TAG = $(VERSION:v%=%)
PUSHED = $(shell tr A-Z a-z <<< $(REGISTRY))
FOUND = $(if $(filter undefined,$(origin $(1))),,--build-arg $(1)="$($(1))")

.PHONY: image
image: ## Build one image with Docker (IMAGE=train, BASE_IMAGE, TRITONSERVER, WITHOUT, TENSORRT; docs/images.md)
	@$(DOCKER) build -f Dockerfile.$(IMAGE) -t atelier-$(IMAGE) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(git log -1 --format=%cI) \
	  $(call FOUND,BASE_IMAGE) $(call FOUND,TRITONSERVER) $(call FOUND,WITHOUT) $(call FOUND,TENSORRT) \
	  --label org.opencontainers.image.source=$(or $(GITHUB_SERVER_URL),https://github.com)/$(GITHUB_REPOSITORY) .

.PHONY: image-scan
image-scan: ## Fail if the image has a critical vulnerability that a newer package fixes
	@$(SCAN) docker:atelier-$(IMAGE) --only-fixed --fail-on critical

.PHONY: image-push
image-push: ## Push the image and print its digest
	@$(DOCKER) tag atelier-$(IMAGE) $(PUSHED)/atelier-$(IMAGE):$(TAG)
	@$(DOCKER) push --quiet $(PUSHED)/atelier-$(IMAGE):$(TAG)
	@$(DOCKER) inspect --format '{{index .RepoDigests 0}}' $(PUSHED)/atelier-$(IMAGE):$(TAG)

.PHONY: charts-push
charts-push: ## Push both charts to REGISTRY as OCI artifacts of VERSION (v1.2.3) and print their digests
	@set -e; aside=$$(mktemp -d); trap 'rm -rf $$aside' EXIT; for chart in charts/atelier charts/adapter; do \
	  $(TOOL)/helm package $$chart --version $(TAG) --app-version $(TAG) --destination $$aside >/dev/null; done; \
	  for file in $$aside/*.tgz; do $(TOOL)/helm push $(HELM_PUSH) $$file oci://$(PUSHED)/charts; done

.PHONY: registry-login
registry-login: ## Log Docker and Helm in to REGISTRY with GITHUB_ACTOR and GITHUB_TOKEN
	@printenv GITHUB_TOKEN | $(DOCKER) login $(firstword $(subst /, ,$(REGISTRY))) -u $(GITHUB_ACTOR) --password-stdin

.PHONY: clean
clean: ## Remove the output of demo and tests (not .venv)
	@rm -rf demo .atelier .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
