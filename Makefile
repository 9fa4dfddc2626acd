PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two cores are enough for everything here; more threads only make the small matrices slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test test-slow test-oldest test-newest coverage mutation quality docs lock audit clean

demo: $(VENV)/.data
	$(BIN)/hf-ncollapse train recipes/mnist5k/rn1_demo.yaml

test: $(VENV)/.dev quality
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.dev $(VENV)/.app
	$(BIN)/python -m pytest -n 2 -m slow

# Both ends of the ranges in pyproject.toml, each in an environment of its own (gigabytes of torch).
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-$@
	VIRTUAL_ENV=$(VENV)-$@ $(BIN)/uv pip install --native-tls --resolution $(RESOLUTION) --editable ".[data,dev]"
	$(VENV)-$@/bin/python -m pytest -n 2

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term-missing:skip-covered

# Changes the code of the measures, the theory and the trainer, a piece at a time, and looks which tests notice.
mutation: $(VENV)/.dev
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

quality: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# build/docs/index.html opens without a server. A warning is an error; the theme's word on its own future is none.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# Everything but torch by hash. Torch's builds for a CPU and for CUDA differ by index, so it is pinned by its version.
$(VENV)/.data: pyproject.toml constraints.txt requirements/demo.lock | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements/demo.lock
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[data]"
	$(BIN)/hf-ncollapse install-metric
	touch $@

$(VENV)/.dev $(VENV)/.app $(VENV)/.docs: $(VENV)/.%: $(VENV)/.data requirements/%.lock
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements/$*.lock
	touch $@

# Resolves anew what pyproject.toml allows; what is locked stays unless it is deleted from the file. Each lock holds the
# demo's, and what two of them have is of one version: all can be installed into one environment.
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK := uv pip compile --quiet --native-tls --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--constraint requirements/torch.txt $(addprefix --no-emit-package ,$(OF_TORCH)) pyproject.toml --extra data
lock: $(VENV)/.dev
	$(BIN)/$(LOCK) --output-file requirements/demo.lock
	$(BIN)/$(LOCK) --extra dev --constraint requirements/demo.lock --output-file requirements/dev.lock
	$(BIN)/$(LOCK) --extra app --constraint requirements/dev.lock --output-file requirements/app.lock
	$(BIN)/$(LOCK) --extra docs --constraint requirements/dev.lock --constraint requirements/app.lock \
		--output-file requirements/docs.lock
	sed -n 's/ \\$$//; /^[a-z]/p' requirements/torch.txt requirements/*.lock | LC_ALL=C sort -u > constraints.txt

# In an environment of its own, as what it requires is not what is audited. Torch is in no lock, so it is asked for alone.
$(VENV)-audit/bin/pip-audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit==2.10.1

AUDIT := $(VENV)-audit/bin/pip-audit --strict --disable-pip
audit: $(VENV)-audit/bin/pip-audit
	$(AUDIT) --require-hashes $(addprefix --requirement ,$(wildcard requirements/*.lock))
	$(AUDIT) --no-deps --requirement requirements/torch.txt

clean:
	rm -rf $(VENV) $(VENV)-test-* $(VENV)-audit mutants dist build
