# Everything runs from a virtual environment of its own, made on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
REPOSITORY ?= model_repository
CAMPUS := .build/campus/synthetic.sigmf-collection
CAMPUS_EMITTER := 40.7655,-111.8420
RECORDING ?= $(CAMPUS)
TRUTH ?= $(if $(filter $(CAMPUS),$(RECORDING)),$(CAMPUS_EMITTER))
MODEL ?= locate
MAP ?= .build/fix.html
SOAK_MINUTES ?= 30
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:
	@echo "make demo   export the models, serve them, locate RECORDING ($(RECORDING)), print the fix"
	@echo "make test   run the tests        make lint   ruff and mypy"
	@echo "make lint-deploy   render and check the manifests and images"
	@echo "make bench  ratios, and the README's table of them     make serve  serve $(REPOSITORY) until Ctrl-C"
	@echo "make gpu-check   the networks on this machine's GPU (PYTHON: one with torch and timm)"
	@echo "make bench-serving   overload, mixed requests, swaps, alerts, clients, memory (SOAK_MINUTES=$(SOAK_MINUTES))"

.PHONY: setup
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: models
models: setup
	$(BIN)/rfserve-export write all --missing --repository $(REPOSITORY)

# Where the published networks were trained; what is measured there falls by 24 dB for each tenfold distance, as the
# receivers' noise is in it.
$(CAMPUS): clients/campus.csv | setup
	$(BIN)/rfserve-client synthesize $(dir $@) --receivers-file clients/campus.csv --emitter-at=$(CAMPUS_EMITTER) \
	  --eirp-dbm=-10 --path-loss-exponent 2.4 --shadowing-db 6 --seed 3

# The note is printed and drawn when the model runs weights that nobody trained.
.PHONY: demo
demo: models $(RECORDING)
	@mkdir -p $(dir $(MAP))
	@listed="$$($(BIN)/rfserve-export list $(MODEL) --repository $(REPOSITORY))"; echo "$$listed"; note=""; \
	case "$$listed" in *untrained*) \
	  note="The weights are untrained: this position means nothing yet. What it shows is the path." ;; esac; \
	$(BIN)/rfserve-server exec --repository $(REPOSITORY) --grpc-port 0 --http-port 0 --metrics-port 0 -- \
	  $(BIN)/rfserve-client locate $(RECORDING) --model $(MODEL) --map $(MAP) --note "$$note" \
	  $(if $(TRUTH),--truth=$(TRUTH)) && echo "$$note"

.PHONY: serve
serve: models
	$(BIN)/rfserve-server run --repository $(REPOSITORY)

# mypy does not follow the import hook of an editable install: give it the package as a folder tree.
.build/typed/rfserve: Makefile
	mkdir -p $@
	ln -sfn ../../../export $@/export
	ln -sfn ../../../clients $@/clients
	ln -sfn ../../../loadtest $@/loadtest
	ln -sfn ../../../deploy/release $@/release
	ln -sfn ../../../deploy/server $@/server
	touch $@

.PHONY: lint
lint: setup .build/typed/rfserve
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.build/typed $(BIN)/mypy

# What can be said of the manifests without a server; `make test` does all of it, and starts what they describe.
.PHONY: lint-deploy
lint-deploy: setup tools
	$(BIN)/python -m pytest -q tests/deploy -m "not server"

.PHONY: format
format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian's Prometheus, unpacked beside the project and not installed. Without it, what needs it says so and skips.
.PHONY: tools
tools:
	@test -x .tools/usr/bin/promtool || command -v promtool >/dev/null || { \
	  mkdir -p .tools && cd .tools && { timeout 60 apt-get download -qq prometheus || \
	  { timeout 60 apt-get update -qq && timeout 60 apt-get download -qq prometheus; }; } && \
	  dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb; } >/dev/null 2>&1 || \
	  echo "note: no promtool, and apt-get cannot download the package prometheus: rules are not tested"

# Two at a time: those that compute, then those with a tritonserver, which mostly wait for it, and which a machine full of
# exports has cost their server; then those that measure, in turn. What fails is run once more and listed as RERUN: machines
# of CI stand still for a second now and then. The models that the first run exports are there for the others.
.PHONY: test
test: setup tools
	@exports="$$(mktemp -d)"; trap 'rm -rf "$$exports"' EXIT; export RFSERVE_EXPORTS="$$exports"; \
	for those in "not server" "server and not alone"; do \
	  $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --reruns 1 -m "$$those" || exit; done; \
	$(BIN)/python -m pytest --reruns 1 -m alone

# What was kept goes into the table, also when others kept the machine too busy for the rest.
.PHONY: bench
bench: setup
	$(BIN)/python tests/benchmarks/ratios.py
	@$(BIN)/python tests/benchmarks/performance.py; measured=$$?; \
	$(BIN)/rfserve-loadtest table --write README.md && exit $$measured

# For a machine with a GPU and no network: PYTHON is one that has torch and timm, and nothing is installed.
.PHONY: gpu-check
gpu-check: .build/typed/rfserve
	PYTHONPATH=.build/typed $(PYTHON) -m rfserve.loadtest.gpu_check

.PHONY: bench-serving
bench-serving: setup tools
	$(BIN)/python tests/benchmarks/serving.py --soak-minutes $(SOAK_MINUTES)

.PHONY: precisions
precisions: setup
	$(BIN)/python tests/benchmarks/precisions.py

# What was published stays: `rfserve-export retire` takes a version away.
.PHONY: clean
clean:
	rm -rf .build build dist *.egg-info
