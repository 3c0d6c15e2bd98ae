# Everything starts here. `make run` and `make test` need nothing but Python 3.11 and make.
.DEFAULT_GOAL := help
.PHONY: help install run smoke test browser lint up down lock languages

BIN := .venv/bin
TESTS ?=

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install:  ## one environment in .venv, from requirements.lock; instant when nothing changed
	@sh infra/install/install.sh

run: install  ## install, start the local servers, run the nano recipe, say where to look
	@$(BIN)/ringflow up
	@$(BIN)/ringflow run nano
	@$(BIN)/ringflow status

smoke: install  ## the same with the smoke recipe: every stage on real parts in about two minutes
	@$(BIN)/ringflow up
	@$(BIN)/ringflow run smoke
	@$(BIN)/ringflow status

test: install lint browser  ## install, lint, all tests (TESTS=tests/infra for a part)
	@$(BIN)/python tests/run.py $(TESTS)

browser: install  ## Chromium for the tests of the web pages, where this user may install it
	@sh infra/install/browser.sh

lint: install  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

up: install  ## start Prefect, MLflow, S3 and Ray on this machine
	@$(BIN)/ringflow up

down: install  ## stop them
	@$(BIN)/ringflow down

languages: install  ## every language of the sandbox, from Debian's packages; without it the sandbox takes what is here
	@PATH="$(PATH)" sh infra/languages.sh $(BIN)/python

lock: install  ## resolve pyproject.toml into requirements.lock again (UPGRADE=1: newest versions)
	@sh infra/install/lock.sh
