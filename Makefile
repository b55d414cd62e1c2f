# run and test create and fill .venv by themselves, and refill it when pyproject.toml or a file of pins changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TWO := -n 2 --dist loadfile
# What the lock is of, hashes and all; elsewhere constraints.txt has the same versions.
LOCKED := import platform, sys; sys.exit((sys.platform, platform.machine(), *sys.version_info[:2]) != ("linux", "x86_64", 3, 11))
TOOLS := build/tools/bin

.PHONY: install run test slow drill check smoke serve bench docs lock sbom audit clean

install: $(READY)

run: $(READY)
	$(BIN)/llama2 run

test: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not slow and not drill" $(TWO)  # threads that wait leave the core

slow: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m slow $(TWO)

drill: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m drill $(TWO)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

smoke: $(READY)
	$(BIN)/llama2 run --profile ci --set runtime.home=var/smoke

serve: $(READY)
	$(BIN)/llama2 up

bench: $(READY)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.generation
	TQDM_DISABLE=1 $(BIN)/python -m benchmarks.data

docs: $(READY)  # into build/site
	$(BIN)/zensical build --clean --strict

lock: $(READY)  # after a change of constraints.txt; where LOCKED holds
	$(BIN)/python .ci/lock.py > requirements.lock

sbom: $(READY) $(TOOLS)  # of what is installed, into build/sbom.json (CycloneDX)
	$(TOOLS)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o build/sbom.json

audit: $(TOOLS)  # asks the vulnerability service of the Python Package Index: the one target that needs the network
	$(TOOLS)/pip-audit --require-hashes --disable-pip -r requirements.lock

$(TOOLS):
	$(PYTHON) -m venv build/tools
	$(TOOLS)/python -m pip install -q cyclonedx-bom==7.5.0 pip-audit==2.10.1

clean:
	rm -rf .venv var build .cache *.egg-info .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	! $(BIN)/python -c '$(LOCKED)' || $(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[starter,dev]"
	$(BIN)/python -m deployments.services.prefect_database
	touch $(READY)
