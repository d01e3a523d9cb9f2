# make demo: a virtual environment, the package, the demo. make test: its own environment and all that CI runs.

PYTHON ?= python3
DEMO_ENV := .venv
TEST_ENV := .venv-test

.PHONY: demo test clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/spotkd demo --overwrite true

test: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy
	OMP_NUM_THREADS=1 $(TEST_ENV)/bin/pytest -n auto

$(DEMO_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and PyTorch into $(DEMO_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/pip install --quiet -c constraints.txt -e .
	touch $@

$(TEST_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and its test tools into $(TEST_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install --quiet -c constraints.txt -e '.[test,data,vision,hub,export,parquet]'
	touch $@

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) build dist
