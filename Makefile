# `make help` lists what there is. GNU make 3.81 (macOS) or later; Python 3.11 or later.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROFILE ?= digits
export PROFILE CELL
EXECUTOR ?= local
JOBS ?= $(if $(filter local,$(EXECUTOR)),$(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))
PORT ?= 8000
GPU_MINUTES ?= 30
KILLS ?= 30
SEED ?= 0
GPU_PYTHON ?= $(BIN)/python

SITE := _build/html
STRICT_SITE := _build/strict/_build/html
BOOK_INPUTS := book src data workflow requirements.lock _config.yml _toc.yml \
	pyproject.toml README.md LICENSE CITATION.cff
RUN_OPTIONS = --executor '$(EXECUTOR)' $(if $(JOBS),--jobs $(JOBS)) $(if $(SHARDS),--shards $(SHARDS)) $(if $(DRY_RUN),--dry-run)
# One thread: numbers are the same on machines of any size, and two threads on a core that others use too take five times as long.
JUPYTER_BOOK = OMP_NUM_THREADS=1 $(BIN)/jupyter-book build book --config _config.yml --toc $(CURDIR)/_toc.yml

.PHONY: help book test serve experiments train gpu check bench test-browser test-golden test-slow test-kill test-slurm lint
.PHONY: book-strict pdf venv lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

book: experiments  ## run what is missing or stale, then render the book to _build/html
	@now=$$($(BIN)/python book/_ext/execution.py $(BOOK_INPUTS)); \
	if [ "$$now" = "$$(cat _build/.rendered 2>/dev/null)" ]; then echo "$(SITE) is up to date"; \
	else $(JUPYTER_BOOK) --path-output . && echo "$$now" > _build/.rendered; fi

test: lint  ## lint, check types, run the tests (JOBS=...)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile

test-slow: $(STAMP)  ## the tests that start whole runs of the workflow, kill them, fill the disk (JOBS=...)
	$(BIN)/python -m pytest -m slow -n $(or $(JOBS),2) --dist loadfile

serve: $(STAMP)  ## show the rendered book on http://localhost:8000 (PORT=...)
	@[ -f $(SITE)/index.html ] || { echo "nothing is rendered yet: make book" >&2; exit 2; }
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

experiments: $(STAMP)  ## run the experiments of PROFILE whose record is missing or stale (CELL=..., FORCE=1: those with a record too, JOBS=..., SHARDS=..., EXECUTOR=slurm, DRY_RUN=1)
	@$(BIN)/python workflow/run.py experiments "$$PROFILE" $(if $(CELL),--cell="$$CELL") $(if $(FORCE),--force) $(RUN_OPTIONS)

train: $(STAMP)  ## train the networks of PROFILE anew (CELL=...)
	@$(BIN)/python workflow/run.py train "$$PROFILE" $(if $(CELL),--cell="$$CELL")

# GPU_PYTHON names the Python of a machine that has all packages but no network; there the book is not rendered.
# The book is rendered though a cell has failed (1), not after a mistake in the request (2). The code is kept in a file
# because `make -n` runs a line with $(MAKE), which therefore stands alone.
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(STAMP))  ## profile cifar10 on one GPU: train, measure, record (GPU_MINUTES=..., FEWSTEP_DATA=...)
	PYTHONPATH=src$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) workflow/gpu.py cifar10 --minutes $(GPU_MINUTES); \
	code=$$?; mkdir -p _build; echo $$code > _build/gpu.code; [ $$code -le 1 ] || exit $$code
	$(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(MAKE) book)
	@exit $$(cat _build/gpu.code)

check: $(STAMP)  ## run all experiments of PROFILE anew and compare each number with the committed record (CELL=..., PART=1/2: half of them)
	@$(BIN)/python workflow/run.py check "$$PROFILE" $(if $(CELL),--cell="$$CELL") $(if $(PART),--part=$(PART)) $(RUN_OPTIONS)

bench: $(STAMP)  ## time the executor beside the schedulers of diffusers
	$(BIN)/python benchmarks/executor.py

test-browser: $(STAMP)  ## open every page of the site rendered last in Chromium, without a network (FEWSTEP_CHROMIUM=..., JOBS=...)
	@[ -f $(SITE)/index.html ] || [ -f $(STRICT_SITE)/index.html ] || $(MAKE) book-strict
	$(BIN)/python -m pytest -m browser -n $(or $(JOBS),2) --dist loadgroup tests/browser

test-golden: $(STAMP)  ## compare with the authors' own programs (FEWSTEP_GOLDEN=DIR: with another folder of vectors)
	$(BIN)/python -m pytest tests/test_golden.py

test-kill: $(STAMP)  ## kill -9 a run of the digits profile at random moments, an hour (KILLS=..., SEED=..., JOBS=..., ONLY="EXPERIMENT ...")
	@PYTHONPATH=tests $(BIN)/python -m kill --kills $(KILLS) --seed $(SEED) --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

test-slurm: $(STAMP)  ## send the digits profile through a SLURM of one node, started here; Debian, as root (ONLY="EXPERIMENT ...")
	FEWSTEP_ONLY='$(ONLY)' $(BIN)/python -m pytest -s -m slurm tests/slurm

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

book-strict: $(STAMP)  ## render everything anew to _build/strict; any warning or failed cell is an error
	rm -rf $(STRICT_SITE)
	$(JUPYTER_BOOK) --path-output _build/strict --all -W -n --keep-going

pdf: $(STAMP)  ## print the whole book to _build/book.pdf, by Chromium or Chrome (FEWSTEP_CHROMIUM=...)
	$(JUPYTER_BOOK) --path-output . --builder singlehtml
	$(BIN)/python book/pdf.py _build/singlehtml/index.html _build/book.pdf

venv: $(STAMP)  ## build .venv from requirements.lock

# The lock pins uv too: pip installs that one package by its hashes, uv installs the rest by theirs.
$(STAMP): requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 2; }
	[ -d $(VENV)/conda-meta ] || $(PYTHON) -m venv $(VENV)
	awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@mkdir -p $(VENV)/etc/ipython  # the kernels of pages and notebooks: errors only, not that they talk TCP on this host
	@echo '{"IPKernelApp": {"log_level": "ERROR"}}' > $(VENV)/etc/ipython/ipython_kernel_config.json
	@touch $@

lock: $(STAMP)  ## resolve requirements.lock anew (Linux and macOS, Python 3.11 and later)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
		--extra book --extra test --group build --custom-compile-command "make lock" \
		pyproject.toml --output-file requirements.lock

clean:  ## remove what was built; keeps .venv, downloads and records
	rm -rf _build .pytest_cache .hypothesis .ruff_cache .mypy_cache .snakemake
