# make demo: a first experiment, from nothing. make test: what CI runs. Both make .venv/ themselves.

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := --dataset_name Digits --img_size 8 --net_name SmallCNN --n_init_labeled 50 --n_query 50 --n_round 10 --seed 1

.PHONY: demo test format bench clean

demo: .venv/installed
	OMP_NUM_THREADS=1 $(PY) demo.py $(DEMO) --strategy_name RandomSampling
	OMP_NUM_THREADS=1 $(PY) demo.py $(DEMO) --strategy_name MarginSampling
	$(PY) plot.py results/Digits

test: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

format: .venv/installed-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/installed
	$(PY) benchmarks/selection.py
	$(PY) benchmarks/training.py
	$(PY) benchmarks/scale.py

clean:
	rm -rf .venv

.venv/created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "DalMax needs Python 3.11 or later: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created requirements.txt constraints.txt
	@echo "Installing torch and the rest into .venv/ (several GB, a few minutes)"
	$(PIP) --requirement requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-ray.txt
	$(PIP) --requirement requirements-dev.txt
	@touch $@
