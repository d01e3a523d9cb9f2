# make demo: a virtual environment, the package, the demo.
# make check: style, types and the fast tests. make check-distiller NAME=at: the tests of one distiller alone.
# make test: style, types and all tests, as CI runs them. All three in an environment of their own.
# make docs: its own environment and the documentation site.

PYTHON ?= python3
DEMO_ENV := .venv
TEST_ENV := .venv-test
DOCS_ENV := .venv-docs

# Each worker uses one thread; a fast test is one with none of these marks, and has a second of processor time.
PYTEST := OMP_NUM_THREADS=1 $(TEST_ENV)/bin/pytest --fast-limit 1
FAST := not slow and not process and not browser and not gpu

.PHONY: demo lint check check-distiller test docs clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/spotkd demo --overwrite true

lint: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy

check: lint
	$(PYTEST) -n auto -m "$(FAST)"

check-distiller: $(TEST_ENV)/installed
	$(if $(NAME),,$(error NAME is missing: make check-distiller NAME=at))
	$(PYTEST) tests/distillers --distiller '$(NAME)'

test: lint
	$(PYTEST) -n auto

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
