# make demo: a virtual environment, the package, the demo. make test: its own environment and all that CI runs.
# make docs: its own environment and the documentation site.

PYTHON ?= python3
DEMO_ENV := .venv
TEST_ENV := .venv-test
DOCS_ENV := .venv-docs

.PHONY: demo test docs clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/spotkd demo --overwrite true

test: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy
	OMP_NUM_THREADS=1 $(TEST_ENV)/bin/pytest -n auto

docs: $(DOCS_ENV)/installed
	$(DOCS_ENV)/bin/python tools/build_site.py

$(DEMO_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and PyTorch into $(DEMO_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/pip install --quiet -c constraints.txt -e .
	touch $@

$(TEST_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and its test tools into $(TEST_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install --quiet -c constraints.txt -e '.[test,data,vision,hub,export,parquet,docs]'
	touch $@

$(DOCS_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and the site's builder into $(DOCS_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) $(DOCS_ENV) build dist
