# Forwards to `cargo xtask`; `make help` lists what there is.
SHELL := /bin/bash
ENV := $(if $(wildcard ../shared/env.sh),. ../shared/env.sh &&,)
DATA := .nihilo

.PHONY: help up down demo test test-long check sim fix image deb dist compose-up compose-down deps-installed

help:
	@echo 'make up      install what is missing, build, start three nodes, run the demo once'
	@echo 'make down    stop the three nodes'
	@echo 'make demo    run the demo again'
	@echo 'make test    format check, clippy, all tests; P=machine for one crate'
	@echo 'make test-long   the tests that take minutes, which make test leaves out'
	@echo 'make check   everything of it but the tests'
	@echo 'make image   build the container image nihilo:dev; compose-up and compose-down use it'
	@echo 'make deb     build the Debian package'
	@echo 'make dist    build the archive, its checksum and its installer'
	@echo 'make sim     2,000 simulated clusters; SEED=7 for one of them, SEEDS=100 for fewer'
	@echo 'make fix     format and apply clippy'"'"'s fixes'

up: deps-installed
	$(ENV) cargo build --release --locked --bin nihilo
	$(ENV) bin="$${CARGO_TARGET_DIR:-target}/release/nihilo"; \
	  "$$bin" dev --nodes 3 --data-dir $(DATA) --detach && "$$bin" demo --data-dir $(DATA); rc=$$?; \
	  echo "again: $$bin demo --data-dir $(DATA)    stop: make down"; exit $$rc

down:
	$(ENV) "$${CARGO_TARGET_DIR:-target}/release/nihilo" dev --stop --data-dir $(DATA)

demo:
	$(ENV) "$${CARGO_TARGET_DIR:-target}/release/nihilo" demo --data-dir $(DATA)

test-long: deps-installed
	$(ENV) cargo xtask test --long

test: deps-installed
	$(ENV) cargo xtask test $(if $(P),--package $(P))

check: deps-installed
	$(ENV) cargo xtask check

sim:
	$(ENV) cargo xtask sim $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

fix:
	cargo fmt --all
	$(ENV) cargo clippy --fix --allow-dirty --workspace --all-targets

image: deps-installed
	$(ENV) cargo xtask image

deb: deps-installed
	$(ENV) cargo xtask deb

dist: deps-installed
	$(ENV) cargo xtask dist

# The plugin where there is one, else the program of compose's first version.
COMPOSE = $$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

compose-up:
	$(COMPOSE) -f cluster/docker-compose.yml up --detach

# The volumes stay: add --volumes to forget the cluster.
compose-down:
	$(COMPOSE) -f cluster/docker-compose.yml down

# RocksDB's bindings need libclang; without the prebuilt library they need a C++ compiler too.
deps-installed:
	@if ! ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1; then \
	  echo 'installing libclang-dev (RocksDB bindings)'; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq libclang-dev g++; \
	  else echo 'not root: run  sudo apt-get install -y libclang-dev g++  and try again'; exit 1; fi; \
	fi
