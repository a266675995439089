PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS := .data/django-5.2.19-py3-none-any.whl

.PHONY: run test test-gpu test-models test-slurm test-cgroup env check clean

run: env
	$(BIN)/python -m evo.run --benchmark speedrun

test: env
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests that need a CUDA device.
test-gpu: env
	$(BIN)/python -m pytest -m gpu -rs

# As root, where Slurm and munge are installed: a controller and a node of one's own for the test.
test-slurm: env
	EVO_SLURM=1 $(BIN)/python -m pytest -m slurm -rs tests/test_slurm.py

# On a Linux of its own, emulated (about a quarter of an hour): needs qemu-system-x86 and busybox-static, else it says so.
test-cgroup: env
	EVO_CGROUP=1 $(BIN)/python scripts/boot_linux.py --skip \
	    $(BIN)/python -m pytest -p no:cacheprovider -m cgroup -rs tests/test_cgroup.py

# A real server with a small local model; its first build takes about ten minutes and stays in .data.
test-models: env .data/llama/.ready
	EVO_LLAMA=$(CURDIR)/.data/llama $(BIN)/python -m pytest -m models tests/test_models.py

.data/llama/.ready: scripts/install_llama
	@mkdir -p -m 700 .data
	scripts/install_llama .data/llama

check: env
	scripts/check

env: $(VENV)/.ready $(CORPUS)

$(VENV)/.ready: pyproject.toml constraints.txt scripts/install_torch
	$(PYTHON) -m venv $(VENV)
	scripts/install_torch $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The training text is a package's archive that nothing in the environment imports: the judge alone reads it.
$(CORPUS): scripts/corpus.sha256
	@mkdir -p -m 700 .data
	@$(PYTHON) -m pip download --quiet --no-deps --dest .data django==5.2.19
	@cd .data && sha256sum --check --quiet ../scripts/corpus.sha256
	@chmod 600 $@ && touch $@

clean:
	rm -rf $(VENV) .data
