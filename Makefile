# The front door. Each recipe is one line; the work is in tools/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# .pyc files make everything start faster; a wish of the outer shell against them ends here.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME

PYTHON := .venv/bin/python
# As root the tests use loop devices and mkfs; for anybody else those tiers are skipped, so nothing is asked for.
ROOT_TOOLS := $(if $(filter 0,$(shell id -u)),tools)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: ## Make .venv from the lock (instantaneous when it is up to date)
	@tools/bootstrap.sh venv

.PHONY: tools
tools:
	@tools/bootstrap.sh tools

.PHONY: demo
demo: tools venv ## See a volume handed to a sandbox, on this machine, in a minute (root)
	@.venv/bin/katacsi demo

.PHONY: test
test: $(ROOT_TOOLS) venv ## Run all tests; TIER=unit for one tier, ARGS="-k name" for pytest
	@$(PYTHON) tools/run_tests.py $(TIER) -- $(ARGS)

.PHONY: check
check: venv ## Lint, types, import contracts, generated files, unit and rpc tests; no root, under 90 s
	@$(PYTHON) tools/run_tests.py check unit rpc

.PHONY: fmt
fmt: venv ## Format the code and mend what ruff can mend
	@.venv/bin/ruff check --fix-only --quiet
	@.venv/bin/ruff format --quiet

.PHONY: generate
generate: venv ## Generate again what is generated: the CSI messages, the chart's schema and picture, tables in docs/
	@$(PYTHON) tools/generate.py
	@$(PYTHON) tools/chart_schema.py
	@$(PYTHON) tools/dashboard.py
	@$(PYTHON) tools/docs.py

.PHONY: bench
bench: venv ## Measure katacsi; never part of the tests
	@$(PYTHON) bench/run.py $(ARGS)

.PHONY: bench-datapath
bench-datapath: $(ROOT_TOOLS) venv ## Measure I/O in a guest: direct, by virtio-fs, and on the host (root)
	@$(PYTHON) bench/datapath.py $(ARGS)

.PHONY: bench-cluster
bench-cluster: $(ROOT_TOOLS) venv ## Measure volumes in a real Kubernetes of one node, against pods without a driver (root)
	@$(PYTHON) bench/cluster.py $(ARGS)

.PHONY: lab-nested
lab-nested: $(ROOT_TOOLS) venv ## The whole chain once: a real LV, a record, a KVM guest, a growth (root)
	@$(PYTHON) tools/lab_nested.py $(ARGS)

.PHONY: e2e
e2e: $(ROOT_TOOLS) venv ## Run Kubernetes' own external storage tests in the kube lab; ARGS="--focus subPath" (root)
	@$(PYTHON) tests/external/run.py $(ARGS)

.PHONY: kube-lab
kube-lab: venv ## Boot a Kubernetes of one node and open a shell in it (root)
	@$(PYTHON) tools/kube_lab.py up && $(PYTHON) tools/kube_lab.py exec

.PHONY: image
image: venv ## Build the container image; ARGS="--base NAME" for another base, "--archive FILE" for a file
	@$(PYTHON) tools/image.py $(ARGS)

.PHONY: lock
lock: ## Pin the newest dependencies that pyproject.toml allows
	@tools/bootstrap.sh lock

.PHONY: clean
clean: ## Remove what make made in this tree; the cache outside it stays
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
