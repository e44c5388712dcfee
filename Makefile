# What a person types. .ci/run calls the same targets; nothing is built or checked in a second way.

PYTHON ?= python3
ARGS   ?=

UV_VERSION := 0.13.9
SERVICES   := services/ca-broker services/enrollment services/federation-edge services/grants
MEMBERS    := proto libs/common $(SERVICES) cli
IMAGES     := $(SERVICES) cli

export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test stress bench bench-enroll lint format proto reference lock tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/installed ## two gateways, one enrollment, one federated read (ARGS="--ca step-ca")
	mosaic dev demo $(ARGS)

test: .venv/installed ## every test that can run here, and what could not and why (ARGS="tests/unit -k scope")
ifneq ($(strip $(ARGS)),)
	pytest $(ARGS)
else
	@# First whatever does not mind company, then what measures; both are run, whatever the first comes to.
	pytest -m "not stress and not alone" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder; first=$$?; \
	    pytest -m "alone and not stress" && exit $$first
endif

stress: .venv/installed ## floods, races, kills and rotations in full size, some minutes
	pytest -m stress tests $(ARGS)

bench: .venv/bench-installed .tools/bin/bench-load ## complete reads against a bare server: .bench/reads.json and a picture
	python -m tests.benchmarks.bench_reads --plot .bench/reads.png $(ARGS)

bench-enroll: .venv/installed ## enrollments a second against what the same step-ca signs: .bench/enroll.json
	python -m tests.benchmarks.bench_enroll $(ARGS)

lint: .venv/installed ## ruff, mypy, import contracts, buf
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	@if [ "$$CI" = true ] || command -v buf >/dev/null; then echo "buf lint proto"; buf lint proto; \
	else echo "buf is not here: the protos are not linted (make tools builds it, with Go)"; fi

format: .venv/installed ## ruff, in place
	ruff check --fix .
	ruff format .

proto: .venv/installed ## proto/gen from proto/mosaic
	find proto/gen -name '*_pb2*' -delete
	cd proto && python -m grpc_tools.protoc -I . --python_out=gen --grpc_python_out=gen --mypy_out=quiet:gen --mypy_grpc_out=quiet:gen \
	    $$(find mosaic -name '*.proto' | LC_ALL=C sort)

reference: .venv/installed ## docs/reference/cli.md and scope.md from the CLI and the schema themselves
	python -m mosaic_cli.reference docs/reference

lock: .tools/uv/bin/uv ## the hashed requirements from every pyproject.toml (ARGS=--upgrade)
	$(call compile,requirements-dev.in $(MEMBERS:%=%/pyproject.toml) --all-extras,requirements-dev.txt)
	$(call compile,requirements-bench.in --constraints requirements-dev.txt,requirements-bench.txt)
	$(foreach image,$(IMAGES),$(call compile,$(image)/pyproject.toml --constraints requirements-dev.txt,$(image)/requirements.txt)$(newline))

tools: ## buf, grpcurl, step and step-ca at the versions of .ci/tool-versions, the client of the benchmark (needs Go)
	@.ci/tools
	@$(MAKE) --no-print-directory .tools/bin/bench-load

clean: ## removes the virtual environment, the caches and the data of `mosaic dev`
	-@[ ! -x .venv/bin/mosaic ] || mosaic dev down
	rm -rf .venv .mosaic .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The third-party set is installed by hash, build backend included; members cannot be hashed, so they come second and fetch nothing.
.venv/installed: requirements-dev.txt $(MEMBERS:%=%/pyproject.toml)
	@command -v $(PYTHON) >/dev/null || { echo "Mosaic needs Python 3.11 or newer; there is no $(PYTHON) here." >&2; exit 1; }
	@$(PYTHON) .ci/check_host.py
	@[ -x .venv/bin/pip ] || $(PYTHON) -m venv --clear .venv
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(MEMBERS:%=-e %)
	@touch $@

.venv/bench-installed: requirements-bench.txt .venv/installed
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@

.tools/bin/bench-load: $(wildcard tests/benchmarks/load/*)
	@command -v go >/dev/null || { echo "The client of the benchmark is built with Go, and there is no go here." >&2; exit 1; }
	cd tests/benchmarks/load && CGO_ENABLED=0 go build -o $(CURDIR)/$@ .

.tools/uv/bin/uv: Makefile
	$(PYTHON) -m venv --clear .tools/uv
	.tools/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# No index, no links, no path: the files are the same wherever they are made. Members are named, never pinned: they come from the checkout.
define compile
UV_CUSTOM_COMPILE_COMMAND="make lock" .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-package mosaic-proto --no-emit-package mosaic-common $(ARGS) $(1) --output-file $(2)
endef

define newline


endef
