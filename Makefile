# Everything a fresh clone needs: `make demo` runs the main job on real photos, `make test` runs the checks.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS := test,offline-text,onnx,web
OUT    ?= demo-out
PROJECT ?= demo-project
DATA    ?= ../shared/data
PHOTOS ?= src/shotseg/demo_data/images

.PHONY: install demo serve test pytest test-page page-browser page-openapi docs lint types results clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRAS)]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'; \
	fi
	@$(BIN)/python -c "import torch, torchvision, timm, open_clip"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/shotseg demo --out $(OUT)

serve: $(STAMP)
	$(BIN)/shotseg serve $(PROJECT) --photos $(PHOTOS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# mypy has one core and pytest takes all: together they leave none idle.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j2 lint types pytest

# Byte code is kept, as many an image forbids: without it each core compiles for five seconds.
pytest: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# The page in a real browser, and its OpenAPI at random, in two minutes. Chromium is installed where that can be done: as root, by apt-get.
test-page: $(STAMP)
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null \
			|| echo "Chromium cannot be installed: the tests that need it are skipped"; \
	fi
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -e '.[test-page]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test-page]'; \
	fi
	@$(MAKE) --no-print-directory -j2 page-browser page-openapi

# A browser leaves a core idle.
page-browser:
	$(BIN)/python -m pytest -n 0 tests/test_page_browser.py tests/test_page_wishes.py tests/test_page_newcomers.py

page-openapi:
	$(BIN)/python -m pytest -n 0 tests/test_page_openapi.py

# The site of docs/ in build/site; a link that leads nowhere ends it. See it: python -m http.server --directory build/site
docs: $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -e '.[docs]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'; \
	fi
	$(BIN)/python docs/build_site.py

# Every method trained and measured on the same episodes: hours on 2 cores, and it goes on where it stopped.
results: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/results.py --data $(DATA) --out results

clean:
	rm -rf $(VENV) $(OUT) dist build .pytest_cache .ruff_cache .mypy_cache
