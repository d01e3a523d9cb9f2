# make demo: a virtual environment, the package, the demo.
# make readme: the demo, and what it made put into README's picture and the quick start's table.
# make check: style, types and the fast tests. make check-distiller NAME=at: the tests of one distiller alone.
# make test: style, types and all tests, as CI runs them. All three in an environment of their own.
# make docs: its own environment and the documentation site.
# make test-versions: install lines, installation and a smoke test with every supported Python of this machine.
# make test-lowest: the core tests with the lowest versions that pyproject.toml allows. PYTHON must be 3.10 to 3.12, which
# the lowest NumPy has wheels for: make test-lowest PYTHON=python3.10. PyTorch brings three gigabytes of CUDA on Linux.

PYTHON ?= python3
DEMO_ENV := .venv
TEST_ENV := .venv-test
DOCS_ENV := .venv-docs
LOWEST_ENV := .venv-lowest

# Each worker uses one thread; a fast test is one with none of these marks, and has a second of processor time. On a busy
# or slower machine that second is worth less: make test FAST_LIMIT=10.
FAST_LIMIT ?= 1
PYTEST := OMP_NUM_THREADS=1 $(TEST_ENV)/bin/pytest --fast-limit $(FAST_LIMIT)
FAST := not slow and not process and not browser and not gpu

.PHONY: demo readme lint check check-distiller test test-versions test-lowest docs clean

demo: $(DEMO_ENV)/installed
	$(DEMO_ENV)/bin/spotkd demo --overwrite true

readme: demo
	$(DEMO_ENV)/bin/python tools/build_readme.py runs/demo

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

test-versions:
	$(PYTHON) tools/check_versions.py

test-lowest: $(LOWEST_ENV)/installed
	OMP_NUM_THREADS=1 $(LOWEST_ENV)/bin/python tools/smoke.py
	OMP_NUM_THREADS=1 $(LOWEST_ENV)/bin/pytest -n auto tests/distillers tests/test_method.py

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
	$(TEST_ENV)/bin/pip install --quiet -c constraints.txt -e '.[test,data,vision,hub,export,parquet,docs,cluster]'
	touch $@

$(LOWEST_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and the lowest versions of what it needs into $(LOWEST_ENV), which takes minutes"
	$(PYTHON) -m venv $(LOWEST_ENV)
	$(LOWEST_ENV)/bin/pip install --quiet "$$(grep '^uv==' constraints.txt)"
	$(LOWEST_ENV)/bin/uv pip install --quiet --python $(LOWEST_ENV)/bin/python --resolution lowest-direct -e '.[test]'
	touch $@

$(DOCS_ENV)/installed: pyproject.toml constraints.txt
	@echo "Installing spotkd and the site's builder into $(DOCS_ENV), which takes a minute or more"
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) $(DOCS_ENV) $(LOWEST_ENV) build dist
