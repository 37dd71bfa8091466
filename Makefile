# `make demo` and `make test` do all their set-up themselves: they need make and a Python, 3.11 or later.
# Another Python: make test PYTHON=/path/to/python3.13

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin

# An editable install lays a tree of links to the package's files under build/. It follows edits by itself, and has to
# be made anew when a file comes or goes: so the stamp is named after the set of files.
FILES := $(shell find *.py py.typed engine runners storage console -type f -not -name '*.pyc' | LC_ALL=C sort)
ENVIRONMENT := .venv/.requirements
INSTALLED := build/.installed-$(shell echo $(FILES) | cksum | cut -d ' ' -f 1)

.PHONY: demo test soak lint bench bench-full clean

# A real job over the standard library's modules, then what its journal says about it.
demo: $(INSTALLED)
	$(BIN)/python examples/stdlib_survey.py --journal demo.db --id-file build/demo-run
	$(BIN)/undertow show "$$(cat build/demo-run)" --journal demo.db
	$(BIN)/undertow report "$$(cat build/demo-run)" --journal demo.db -o build/demo.html

test: $(INSTALLED)
	$(BIN)/python -m pytest

# The long run of what `make test` does briefly: simulated worlds and real kills, by the thousand. Most of an hour.
soak: $(INSTALLED)
	for backend in asyncio trio; do \
		$(BIN)/python -m tests.simulation --runs 100000 --backend $$backend && \
		$(BIN)/python -m tests.kills --kills 1000 --backend $$backend || exit 1; done

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/typing/*.py examples/*.py
	$(BIN)/pyright

# The budget rows and workloads at small sizes, in minutes; the tables go to build/bench.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks run --scale quick --results build/bench/results.jsonl
	$(BIN)/python -m benchmarks report --results build/bench/results.jsonl

# Everything at full size, and the peers in environments of their own: hours. Writes benchmarks/RESULTS.md.
bench-full: $(INSTALLED)
	$(BIN)/python -m benchmarks peers
	$(BIN)/python -m benchmarks run --scale full --peers
	$(BIN)/python -m benchmarks report

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage demo.db demo.db-wal demo.db-shm

$(ENVIRONMENT): requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "undertow needs Python 3.11 or later: install one, or say make PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

$(INSTALLED): pyproject.toml $(ENVIRONMENT)
	@rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
