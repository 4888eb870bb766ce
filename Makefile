# What people do with a clone. `make demo` and `make test` set up all that they need.
ARGS ?=
RUN := .venv/bin

.PHONY: demo test lint bench docs setup

setup:
	@tools/setup.sh

demo: setup  ## a site in a box: real nodes, three actors, one lease; ARGS="--once --json"
	@$(RUN)/shirako demo $(ARGS)

test: setup  ## all tests, with real sshd nodes and a real slapd
	@$(RUN)/pytest -n 2 --dist loadfile -q $(ARGS)

lint: setup  ## ruff, mypy --strict, import-linter, pip-audit (AUDIT=off: without the last)
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@if [ "$(AUDIT)" = off ]; then echo "no audit was made: AUDIT=off"; \
	else $(RUN)/python tools/audit.py; fi

bench: setup  ## all benchmarks, quickly; each measures its reference in the same run
	@for bench in bench/*.py; do $(RUN)/python $$bench --quick $(ARGS) || exit 1; done

docs: setup  ## what is generated: the state diagrams, from the tables that run
	@$(RUN)/python tools/docs.py
