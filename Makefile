# Two commands do all the set-up: `make demo` and `make test`. Each makes its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-long test-oldest bench lint format clean

demo: $(VENV)/.installed-examples
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python examples/glow_digits.py $(ARGS)

# Everything under Keras 3, then the Keras part once more under tf_keras.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m "not slow and not long" $(ARGS)
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not long" tests/keras $(ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

test-long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m long $(ARGS)

# Five families under the lowest versions that setup.cfg declares. These exist for Python 3.10 to
# 3.12, so PYTHON must be one of them.
test-oldest: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python -m pytest -m "" tests/keras/test_families.py tests/keras/test_tensorboard.py \
		-k "tensorboard or plain and (real_nvp or glow or maf-spline or neural_spline-image or ffjord-adaptive)" $(ARGS)

# Ours against its peers, which have environments of their own: they clash with each other.
bench: $(VENV)/.installed-bench $(VENV)-bench-torch/.installed $(VENV)-bench-jax/.installed
	$(BIN)/python -m benchmarks.run --environments $(VENV)-bench $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed-%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

$(VENV)-oldest/.installed: setup.cfg
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or sys.exit( \
		"test-oldest needs Python 3.10 to 3.12, and $(PYTHON) is %d.%d: make test-oldest PYTHON=..." % v)'
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	sed -n '/^install_requires/,/^$$/s/^ *\([a-z0-9-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg \
		> $(@D)/lowest.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/lowest.txt --editable . pytest
	touch $@

$(VENV)-bench-%/.installed: benchmarks/requirements-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	-$(@D)/bin/python -m pip install --quiet --requirement $< && touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-bench-* build dist *.egg-info .pytest_cache .ruff_cache
