# esxodus: two commands for newcomers, `make demo` and `make test`; both install what they need first.
SHELL := /bin/bash
.DELETE_ON_ERROR:
CACHE := $(or $(ESXODUS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esxodus)
export PATH := $(HOME)/.cargo/bin:$(PATH)
TRIPLE := x86_64-unknown-linux-gnu
BIN := target/release/esxodus

.PHONY: help demo test build agent setup setup-test lint bench bench-agreement bench-assess bench-boot bench-fixup bench-kernels fuzz clean-demo

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: setup ## install what is missing, make a VMware guest, migrate it, show the report
	@scripts/demo.sh

test: setup setup-test ## run all tests (unit, integration with real qemu-img and QEMU boots)
	@scripts/test.sh

build: ## build the release binaries: esxodus and the static agent beside it
	@scripts/build.sh

setup: ## install what running needs (Debian packages; asks sudo where not root)
	@scripts/setup.sh run

setup-test: ## install what the tests compare with
	@scripts/setup.sh test

lint: ## formatting, clippy and documentation, as reviewers want them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

bench: build ## conversion speed beside qemu-img and nbdcopy, paired in one run
	@scripts/setup.sh run bench
	@python3 scripts/bench-convert.py $(BENCH_OPTIONS)

bench-kernels: ## the workloads' kernels and the statistics under criterion (BENCH_OPTIONS=--quick)
	cargo bench --locked -p esxodus-bench -- $(BENCH_OPTIONS)

bench-agreement: build ## the agent's figures beside fio's, sysbench's and STREAM's
	@scripts/setup.sh bench
	@scripts/bench-agreement.sh $(BENCH_OPTIONS)

bench-boot: ## the own VMM beside QEMU's microvm in the nested lab: boot stages, memory, random reads
	@scripts/setup.sh run lab
	@scripts/bench-boot.sh

fuzz: ## fuzz the readers, a minute each (FUZZ_OPTIONS="-t 600 vmdk_hosted")
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(FUZZ_OPTIONS)

bench-fixup: build ## converting and fixing up beside virt-v2v, the appliance beside guestfish
	@scripts/setup.sh run test bench
	@scripts/bench-fixup.sh $(BENCH_OPTIONS)

bench-assess: build ## 5,000 guests assessed from files: time, and memory beside a tenth of them
	@scripts/bench-assess.py $(BENCH_OPTIONS)

clean-demo: ## remove the sample guest and its results from the cache
	rm -rf "$(CACHE)/demo" "$(CACHE)/demo-out"
