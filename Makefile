# PyTorch to install; for CUDA 12.8, say: make demo TORCH="torch --index-url https://download.pytorch.org/whl/cu128"
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = pyproject.toml $(shell find sb3_elmur envs zoo_configs -type f -not -path '*/__pycache__/*')

.PHONY: demo test test-slow test-campaign test-mikasa mikasa-system lint types docs format clean

demo: $(VENV)/.demo  ## train ELMUR on T-Maze and compare it to PPO without memory
	$(BIN)/python benchmarks/demo.py

test: $(VENV)/.dev  ## all tests but the slow ones, on the installed package
	$(BIN)/pytest -n 2 --dist loadgroup

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-campaign: $(VENV)/.dev  ## damaged files, commands killed at random, long runs: at most an hour; benchmarks/results/campaign.json
	PYTHONPATH=tests $(BIN)/python -m campaign

mikasa-system:  ## what the simulator of MIKASA-Robo needs from Debian, as root: Mesa's Vulkan driver, libGL
	.ci/mikasa-system

test-mikasa: $(VENV)/.dev $(VENV)/.maniskill  ## the tests in that simulator; `make mikasa-system` comes before
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps "mikasa-robo-suite==1.0.0"
	$(BIN)/pytest -m mikasa

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## outside the checkout, on the installed package
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p sb3_elmur

docs: $(VENV)/.docs  ## the documentation, into docs/_build/html
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	touch $@

$(VENV)/.%: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check ".[$*]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/api
