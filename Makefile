# make app | lab | test | check | docs | clean, in an environment of its own under .venv
#   PYTHON=python3.12  the interpreter of a new environment
#   ARGS="..."         more arguments for the app or for pytest, such as ARGS="tests/test_model.py -x"

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: app lab test check docs clean

app: $(READY)
	$(BIN)/python app.py $(ARGS)

lab: $(READY)
	JUPYTER_CONFIG_PATH=$(CURDIR)/notebooks/.jupyter $(BIN)/jupyter lab --LabApp.news_url=None \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS) notebooks/0-contents.ipynb

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -c "import ssast_lab, pdoc, pathlib; [getattr(ssast_lab, name) for name in ssast_lab.__all__]; \
		pdoc.pdoc('ssast_lab', output_directory=pathlib.Path('build/docs'))"
	$(BIN)/python docs/render.py build/docs/notebooks

# The stamp is older than these only when the requirements may have changed: else nothing is installed again. hearvalidator and xares
# ask for tensorflow and for old releases; the tests take neither, and of the rest only loguru, which the extra dev has.
$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"SSAST Lab needs Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}: name another one, as in make app PYTHON=python3.12.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[app,map,parquet,index,onnx,hub,notebooks,dev]'
	$(BIN)/python -m pip install --quiet --no-deps hearvalidator==2021.0.2 xares==0.1.3
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
