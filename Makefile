# run and test create and fill .venv by themselves, and refill it when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TWO := -n 2 --dist loadfile

.PHONY: run test slow drill check smoke serve bench clean

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

clean:
	rm -rf .venv var build *.egg-info .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[starter,dev]"
	touch $(READY)
