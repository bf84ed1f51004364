# One command for each job; each sets up .venv by itself. `make test` is what CI runs.
#
#   make demo    the policy at work on real SDK traffic: no keys, no network
#   make test    linters, types, import contracts, tests
#   make lint    ruff and the import contracts          make types   mypy and pyright
#   make fix     what can be repaired mechanically      make bench   figures of speed, on two cores
#   make train-injection   the injection plugin's model and lexicon, from DATA
#   make eval-injection    every figure of the injection plugin, and plots
#   make eval-pii          every figure of the pii plugin against its bar, with labelled sets from DATA
#   make crash   21 faults of a provider, and what a caller gets
#   make egress  mitmproxy beside it, for the transparent mount (`make test` does it too)
#   make dist    wheel and sdist                        make lock    resolve the lock files anew

BIN := .venv/bin
DEV := .venv/.ready-dev
DEMO := .venv/.ready-demo
EGRESS := .venv-egress/.ready
SETUP := scripts/setup pyproject.toml requirements/bootstrap.lock
NODE := tests/e2e/node
TESTS ?= tests
# More workers than cores: a third of the suite's time is waiting, for clocks and for processes that start.
PYTEST_FLAGS ?= -q -n 4
BENCH_FLAGS ?=
CRASH_FLAGS ?=
DATA ?= ../shared/data/injection
PLOTS ?= plots
EVAL_FLAGS ?=

.PHONY: demo test lint types npm egress fix bench train-injection eval-injection eval-pii crash dist lock clean
.NOTPARALLEL:

demo: $(DEMO)
	$(BIN)/llmshield demo

# Everything runs, whatever failed before, and pytest's closing line comes last.
test: $(DEV) npm egress
	@status=0; $(MAKE) --no-print-directory -k lint types || { status=1; echo "FAILED: lint or types, see above"; }; \
	$(BIN)/pytest $(PYTEST_FLAGS) $(TESTS) || status=1; exit $$status

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(DEV)
	$(BIN)/mypy
	@if [ -x .venv-egress/bin/python ]; then $(BIN)/mypy --python-executable .venv-egress/bin/python addons; fi
	$(BIN)/pyright

# The SDKs for JavaScript that tests marked `npm` drive. Without node, or offline, those tests are skipped.
npm:
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
		echo "npm: no node and npm here; tests marked npm will be skipped"; \
	elif ! [ $(NODE)/node_modules/.package-lock.json -nt $(NODE)/package-lock.json ]; then \
		npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --loglevel=error \
			|| echo "npm: the packages could not be installed; tests marked npm will be skipped"; \
	fi

# mitmproxy in an environment of its own, for the tests of the transparent mount.
egress: $(DEV)
	@if ! [ $(EGRESS) -nt requirements/egress.lock ]; then \
		scripts/setup egress || echo "egress: not set up; tests that need mitmproxy will be skipped"; \
	fi

fix: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	$(BIN)/python tests/bench/run.py $(BENCH_FLAGS)

train-injection: $(DEV)
	$(BIN)/python scripts/train_injection.py $(DATA)

eval-injection: $(DEV)
	$(BIN)/python tests/bench/injection_eval.py $(DATA) --plots $(PLOTS)

# DATA has a default that is the other plugin's: without one of its own, only what the scripts make is judged.
eval-pii: $(DEV)
	$(BIN)/python tests/bench/pii_eval.py $(if $(filter-out file,$(origin DATA)),$(DATA)) $(EVAL_FLAGS)

crash: $(DEV)
	@$(BIN)/python tests/bench/crash.py $(CRASH_FLAGS)

dist: $(DEV)
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python --out-dir dist

lock:
	scripts/setup lock

clean:
	rm -rf .venv .venv-egress dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(DEV): $(SETUP) requirements/dev.lock
	scripts/setup dev

# A .venv made for the tests holds all that the demo needs: it counts as ready for both.
$(DEMO): $(SETUP) requirements/demo.lock
	scripts/setup demo
