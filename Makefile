# What people type. Each target says what it does in `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ENGINE ?=
MODEL ?=
NODES ?=
TUNNEL ?=
PORTS ?= fixed
URL ?=
KEY_FILE ?=
ITS_MODEL ?=
PYTEST_ARGS ?=
EXPERIMENTS ?=
SEEDS ?= 20
FIRST_SEED ?= 0
SIZE ?= 1
TRIAL_ARGS ?=
export PYTHON

run := .venv/bin/python -m
code := libs services tests benchmarks scripts examples
existing = $(wildcard $(code))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

.PHONY: up
up: venv ## start the suite and print a key (ENGINE=vllm|sim MODEL=<hub id or path> NODES=<n> TUNNEL=0|1 PORTS=fixed|free)
	@$(run) crosslogic_dev up --engine "$(ENGINE)" --model "$(MODEL)" --nodes "$(NODES)" --tunnel "$(TUNNEL)" --ports "$(PORTS)"

.PHONY: external
external: ## relay to an OpenAI-compatible endpoint beside a suite that runs (MODEL=<name> URL=https://... KEY_FILE=<file> ITS_MODEL=<name>)
	@$(run) crosslogic_dev external --model "$(MODEL)" --url "$(URL)" --key-file "$(KEY_FILE)" --its-model "$(ITS_MODEL)"

.PHONY: down
down: ## stop every process of the suite; the data stays in .run
	@if [ -x .venv/bin/python ]; then $(run) crosslogic_dev down; else echo "nothing was ever started here"; fi

.PHONY: status
status: ## tell what runs
	@if [ -x .venv/bin/python ]; then $(run) crosslogic_dev status; else echo "nothing was ever started here"; fi

.PHONY: venv
venv: ## make .venv from uv.lock, unless it is as the lock says
	@scripts/venv.sh

.PHONY: test
test: venv ## everything a fresh machine can check; what needs no running service goes on beside the first tests
	@$(MAKE) --jobs=2 pytest checks

.PHONY: checks
checks: lint engine types imports security protos-check ## all that is no test, and what the tests of the engine need

.PHONY: engine
engine: venv ## the environment of the engine, unless it is there
	@$(run) crosslogic_dev.engine.install .venv-engine

.PHONY: pytest
pytest: venv ## only the tests (PYTEST_ARGS="tests/unit -k name")
	@$(run) pytest $(PYTEST_ARGS)

.PHONY: lint
lint: venv ## ruff: rules and format
	@.venv/bin/ruff check $(existing)
	@.venv/bin/ruff format --check $(existing)

.PHONY: format
format: venv ## let ruff repair what it can
	@.venv/bin/ruff check --fix $(existing)
	@.venv/bin/ruff format $(existing)

.PHONY: types
types: venv ## mypy, strict, over code and tests
	@$(run) mypy $(existing)

.PHONY: imports
imports: venv ## who may import whom
	@.venv/bin/lint-imports --no-cache

.PHONY: security
security: venv ## bandit over all that runs
	@$(run) bandit --quiet --recursive --configfile pyproject.toml --severity-level medium libs services scripts

.PHONY: docs
docs: venv ## the documentation as a site in dist/site, in an environment of its own
	@scripts/docs.sh

.PHONY: admin-client
admin-client: venv ## write libs/admin_client from the OpenAPI document, and build its wheel in dist
	@.venv/bin/python scripts/admin_client.py libs/admin_client/src/crosslogic_admin/client.py
	@$(run) build --wheel --no-isolation --outdir dist libs/admin_client

.PHONY: sbom
sbom: venv ## what everything is made of, with licences, as CycloneDX in dist
	@.venv/bin/python scripts/sbom.py dist/sbom.cdx.json

.PHONY: audit
audit: venv ## known vulnerabilities of what runs; asks a public service, so it is no part of `make test`
	@scripts/audit.sh

.PHONY: protos
protos: venv ## generate libs/protos/src from protos/
	@scripts/protos.sh

.PHONY: protos-check
protos-check: venv ## lint the contracts, find breaking changes (BASE=<ref>), compare the stubs
	@scripts/protos_check.sh

.PHONY: protos-wheel
protos-wheel: venv ## build the stubs as a wheel that another team can install alone
	@$(run) build --wheel --no-isolation --outdir dist libs/protos

.PHONY: examples
examples: venv ## call a service of the running suite with stubs in Python, TypeScript and Go
	@[ -f .run/plan.json ] || { echo "make examples: nothing runs here; make up first" >&2; exit 1; }; \
	port=$$($(run) json.tool .run/plan.json | sed -nE 's/ *"registry": ([0-9]+),?/\1/p'); \
	for language in python typescript go; do scripts/stub_example.sh $$language 127.0.0.1:$$port .run/tls; done

.PHONY: bench
bench: venv ## measure against the budgets; prints a table and writes JSON
	@$(run) benchmarks

.PHONY: trial-limits
trial-limits: venv ## limits and budgets over 4 gateway workers, windows of real length, 1,000 at once: 6 minutes
	@TRIAL_WINDOW_SCALE=1 TRIAL_AT_ONCE=1000 $(run) pytest tests/e2e/test_e2e_admission.py -k "windows or budget"

.PHONY: chaos
chaos: venv ## break things on purpose (EXPERIMENTS=1,3 SEEDS=20 FIRST_SEED=0 SIZE=1); all experiments: hours
	@$(run) tests.chaos --experiments "$(EXPERIMENTS)" --seeds "$(SEEDS)" --first-seed "$(FIRST_SEED)" --size "$(SIZE)"

.PHONY: trial-nodes
trial-nodes: venv ## 500 streams on 20 nodes, one of which dies every 5 s for 5 minutes (TRIAL_ARGS="--seconds 60")
	@$(run) tests.chaos.trial_nodes $(TRIAL_ARGS)

.PHONY: trial-rolling
trial-rolling: venv ## every process is replaced twice under 100 requests/s; 4 minutes (TRIAL_ARGS="--rounds 1")
	@$(run) tests.chaos.trial_rolling $(TRIAL_ARGS)

.PHONY: trial-skypilot
trial-skypilot: venv ## launches through SkyPilot's API server on a fake cloud, everything killed at random (LAUNCHES=6 TRIAL_ARGS="--seed 1")
	@$(run) tests.chaos.trial_skypilot --launches "$(or $(LAUNCHES),6)" $(TRIAL_ARGS)

.PHONY: trial-fleet
trial-fleet: venv ## two orchestrators launch, each killed and stopped past its leases in turn; 3 minutes (TRIAL_ARGS="--launches 18 --seed 5")
	@$(run) tests.chaos.trial_fleet $(TRIAL_ARGS)

.PHONY: trial-stops
trial-stops: venv ## the registry stopped at each step of a launch, and killed in mid-promotion; 9 minutes (TRIAL_ARGS="--parts promotions")
	@$(run) tests.chaos.trial_stops $(TRIAL_ARGS)

.PHONY: trial-weights
trial-weights: venv ## the storage silent, refusing or gone, and the agent stopped or killed, while weights load; 10 minutes (TRIAL_ARGS="--seed 1")
	@$(run) tests.chaos.trial_weights $(TRIAL_ARGS)

.PHONY: storm
storm: venv ## requests over dying processes: does everybody count the same? (REQUESTS=5000 SEED=1 STORM_ARGS="--seconds 60")
	@$(run) tests.storm --requests "$(or $(REQUESTS),5000)" --seed "$(or $(SEED),1)" $(STORM_ARGS)

.PHONY: lock
lock: venv ## bring uv.lock up to date with the pyproject files, without hosts (UV_ARGS="--upgrade-package x")
	@scripts/lock.sh $(UV_ARGS)

.PHONY: skypilot-lock
skypilot-lock: venv ## bring the locks of SkyPilot's own environment up to date (UV_ARGS="--upgrade")
	@cd services/orchestrator/skypilot_worker && for kind in "" -test; do \
	  ../../../.venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 \
	    --universal $(UV_ARGS) "requirements$$kind.in" --output-file "requirements$$kind.txt"; done
