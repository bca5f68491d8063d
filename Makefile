# make demo: quantize the sample model.   make test: style checks and all tests.
# Both set themselves up: a virtual environment in .venv with TensorFlow, this package and its compiled ops.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TENSORFLOW ?= tensorflow>=2.16,<2.22
PYTHON_CODE := amct_tensorflow amct_tensorflow_cli benchmarks samples tests setup.py
CPP := $(wildcard amct_tensorflow/ops/*/*.h amct_tensorflow/ops/*/*.cc)

.PHONY: demo test lint bench clean

demo: $(VENV)/ready
	$(BIN)/python samples/mobilenetv2/main.py

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

bench: $(VENV)/ready
	$(BIN)/python benchmarks/real_models.py
	$(BIN)/python benchmarks/accuracy.py --cache outputs/nets
	$(BIN)/python benchmarks/forecasts.py --cache outputs/nets
	$(BIN)/python benchmarks/rounding.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/runtimes.py

# TensorFlow first: the package's build then finds it and compiles the ops for it.
$(VENV)/ready: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.10 to 3.12 is needed; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is incomplete: run apt-get install python3-venv, then make again"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TENSORFLOW)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,test,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist outputs *.egg-info amct_tensorflow/ops/*.so amct_tensorflow/proto/*.desc
