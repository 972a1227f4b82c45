# make demo, make test: everything in .venv, which is made if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The tests of a file stay together: they share what is made for them. A process has one core, as
# more threads would be in the way of the other processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	--numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
DEMO := configs/retinanet_pvt_v2_b0_fpn_shapes.py

DOCS := $(VENV)-docs/.installed

.PHONY: install demo test test-full lint docs clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml requirements/tested.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/tested.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python tools/make_shapes.py data/shapes
	$(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo --seed 0

test: install
	$(PYTEST) -m "not full"

test-full: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/mypy

# The documentation site, in site/. It reads the sources and imports nothing of them.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(dir $(DOCS))bin/mkdocs build --quiet

$(DOCS): requirements/docs.txt
	$(PYTHON) -m venv $(dir $(DOCS))
	$(dir $(DOCS))bin/pip install --quiet -r requirements/docs.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs .nox site work_dirs build dist mmpvt.egg-info mmpvt/.mim .mypy_cache .import_linter_cache
