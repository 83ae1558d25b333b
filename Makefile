# Autopilot: `make run` starts it, `make test` tests it, `make help` names the rest.

.DEFAULT_GOAL := help
SHELL := /bin/sh
# The system's Python (3.11 or newer) is used, never a downloaded one.
export UV_PYTHON_DOWNLOADS := never

# uv from the PATH, or else one of our own in .uv/.
UV ?= $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
RUN := $(UV) run --frozen --no-dev
DEV := $(UV) run --frozen
# Most tests wait for processes and brokers more than they compute.
TOGETHER := -n 5 --dist worksteal
PYTHON_PACKAGES := autopilot_site scheduling recovery

# What a look at the code needs of settings, and what one at production's needs: secrets
# that are thrown away.
LOOK := env DEBUG=1
secret = $$(python3 -c 'import secrets; print(secrets.token_urlsafe(60))')
PRODUCTION = env DEBUG=0 SECRET_KEY=$(secret) JWT_SIGNING_KEY=$(secret) \
	ALLOWED_HOSTS=autopilot.example.org SECURE_SSL_REDIRECT=1

.PHONY: help setup run test test-real test-real-together test-real-alone real-services \
	chaos soak mutants check fmt lint types imports audit risky readme web cluster consumer kafka

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

.uv/bin/uv:
	@echo "uv is not on the PATH: installing it into .uv/"
	@python3 -m venv .uv || { \
		rm -rf .uv; \
		echo "Python's venv module is missing. On Debian or Ubuntu:"; \
		echo "  sudo apt-get install -y python3-venv"; \
		exit 1; \
	}
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

# A uv from the PATH is no file that make would have to build.
ifneq ($(UV),.uv/bin/uv)
.PHONY: $(UV)
$(UV):
endif

setup: | $(UV) ## Install everything, for work on the code too
	$(UV) sync --frozen

run: | $(UV) ## Start everything, with a demo where the database is empty (ARGS="--port 8001")
	@exec $(RUN) python manage.py up $(ARGS)

test: | $(UV) ## Run the tests (no PostgreSQL, no Kafka, no Java needed)
	$(DEV) pytest $(TOGETHER)

test-real: test-real-together test-real-alone ## Run the tests on DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS

# Two halves, for who has two pairs of servers: those of one share its topics.
test-real-together: real-services | $(UV)
	$(DEV) pytest $(TOGETHER) --only-services -m "not alone"

test-real-alone: real-services | $(UV)
	$(DEV) pytest -m alone

real-services:
	@test -n "$$DATABASE_URL" && test -n "$$KAFKA_BOOTSTRAP_SERVERS" || { \
		echo "set DATABASE_URL (postgres://...) and KAFKA_BOOTSTRAP_SERVERS" >&2; \
		exit 1; \
	}

# How long the faults last, in seconds; SEED=… repeats a run, RAW=… keeps its report.
DURATION ?= 180
# Seconds from one kill to the next.
KILL_EVERY ?= 1
CHAOS = $(DEV) python -m tests.chaos --seconds $(DURATION) --kill-every $(KILL_EVERY) \
	$(if $(SEED),--seed $(SEED)) $(if $(RAW),--raw $(RAW))
chaos: | $(UV) ## Let clients work under faults, and judge it from outside (DURATION, SEED)
	$(CHAOS)

soak: DURATION = 3600
soak: KILL_EVERY = 60
soak: | $(UV) ## The same for an hour, with a kill a minute: does anything grow? (DURATION, RAW)
	$(CHAOS) --only-kills

mutants: | $(UV) ## Put bugs into a copy of the code, and see that the tests find each
	$(DEV) python -m tests.mutants $(ARGS)

check: lint test ## All that has to be green: lint and test

fmt: | $(UV) ## Format the code and mend what can be mended
	$(DEV) ruff check --fix .
	$(DEV) ruff format .

lint: types imports audit risky | $(UV) ## Every check but the tests
	$(DEV) ruff check .
	$(DEV) ruff format --check .
	$(LOOK) $(DEV) python manage.py makemigrations --check --dry-run
	$(PRODUCTION) $(DEV) python manage.py check --deploy --fail-level WARNING
	$(LOOK) $(DEV) python manage.py spectacular --validate --fail-on-warn --file /dev/null

types: | $(UV) ## Check the types
	$(LOOK) $(DEV) mypy $(PYTHON_PACKAGES)

imports: | $(UV) ## Check that imports only point down the ladder
	$(LOOK) $(DEV) lint-imports

audit: | $(UV) ## Look for known vulnerabilities in what is installed
	@found=$$($(DEV) pip-audit --progress-spinner off --timeout 10 2>&1) \
		&& echo "$$found" \
		|| case "$$found" in \
			*"known vulnerabilit"*) echo "$$found"; exit 1 ;; \
			*) echo "audit: the vulnerability service can't be reached, not checked" ;; \
		esac

risky: | $(UV) ## Search the code for what is risky (bandit, from medium on)
	$(DEV) bandit --quiet --recursive --severity-level medium --configfile pyproject.toml \
		$(PYTHON_PACKAGES) manage.py

readme: | $(UV) ## Write the README's table of environment variables anew
	$(LOOK) $(DEV) python -m autopilot_site.env_table

web: | $(UV) ## Run the web process alone (PORT, default 8000)
	@exec $(RUN) gunicorn -k asgi --no-control-socket --graceful-timeout 5 \
		--bind 0.0.0.0:$${PORT:-8000} autopilot_site.asgi:application

cluster: | $(UV) ## Run a publishing cluster alone
	@exec $(RUN) python manage.py qcluster

consumer: | $(UV) ## Run a consumer alone
	@exec $(RUN) python manage.py consume_events

kafka: | $(UV) ## Run the embedded broker alone
	@exec $(RUN) python manage.py embedded_kafka --port 19092
