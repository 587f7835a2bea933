# The front door. Everything is built by CMake and Ninja (CMakePresets.json); this file only names what people do.

JOBS ?= $(shell nproc)
# Most tests wait for their daemons: one more than there are processors takes 9 min here instead of 11.
TEST_JOBS ?= $(shell expr $(JOBS) + 1)
CTEST = GTEST_BRIEF=1 ctest --output-on-failure --no-tests=error -j $(TEST_JOBS)
DEMO_TARGETS = shortfuse-cli shortfuse-hook shortfuse-bridge shortfuse-jit passthroughfs \
               policy-metacache policy-datacache policy-passall policy-deny
# What is worth its time under the sanitisers: the daemon's code and what it shares with the hook (which itself is never
# sanitised), and the differential driver over sanitised daemons. Threads meet in the cache and in the bridge.
MOUNT_TARGETS = passthroughfs shortfuse-hook shortfuse-bridge shortfuse-jit policy-metacache policy-datacache \
                policy-passall policy-deny mount_differential
ASAN_TESTS = (metrics|cache|vm|bypass|bridge|cli)_.*|passthroughfs-.*|mount_differential
TSAN_TESTS = (metrics_fold|cache_cache|cache_readers|vm_map|vm_map_hash|bridge_.*)_test|mount_differential
# sanitised PRESET,BUILD-DIRECTORY,TESTS: a test and the program that it runs have one name. In the recipe's shell,
# because the tests are known only once it is configured.
define sanitised
	cmake --preset $(1)
	cmake --build --preset $(1) -j $(JOBS) --target $(MOUNT_TARGETS) \
	  $$(ctest --test-dir $(2) -N | sed -nE 's/^ *Test +#[0-9]+: ($(3))$$/\1/p')
	$(CTEST) --test-dir $(2) -R '^($(3))$$'
	@scripts/skipped.sh $(2)
endef

.PHONY: all build setup demo check check-release bench soak compat asan tsan install clean help
.NOTPARALLEL:

all: build

help:
	@echo 'make            build everything into build/'
	@echo 'make demo       install what is missing, build, mount, run, compare, unmount'
	@echo 'make check      install what is missing, build, run the tests, also under the sanitisers'
	@echo 'make bench      the comparison: table, JSON and plots under build/bench/ (BENCH_FLAGS=--quick)'
	@echo 'make soak       the tests at length'
	@echo 'make compat     real programs (PostgreSQL, git, gcc, node, java, ...) with and without: installs them too'
	@echo 'make asan tsan  the unit and differential tests under one sanitiser'
	@echo 'make install    into PREFIX (default /usr/local)'
	@echo 'make clean      remove the build directories'

setup:
	@scripts/setup.sh

build/build.ninja: CMakeLists.txt CMakePresets.json
	cmake --preset release

build: build/build.ninja
	cmake --build --preset release -j $(JOBS)

demo: setup build/build.ninja
	cmake --build --preset release -j $(JOBS) --target $(DEMO_TARGETS)
	@scripts/demo.sh

check: check-release asan tsan

check-release: setup
	cmake --preset release
	cmake --build --preset release -j $(JOBS)
	$(CTEST) --test-dir build
	@scripts/skipped.sh build

asan: setup
	$(call sanitised,asan-ubsan,build-asan,$(ASAN_TESTS))

tsan: setup
	$(call sanitised,tsan,build-tsan,$(TSAN_TESTS))

soak: setup build
	SHORTFUSE_SOAK=1 $(CTEST) --test-dir build --timeout 14400

compat:
	@scripts/setup.sh --compat
	@$(MAKE) --no-print-directory build
	SF_BUILD=$(CURDIR)/build tests/compat/run.sh $(CASES)

bench: setup build
	build/bin/shortfuse-bench --out build/bench $(BENCH_FLAGS)

PREFIX ?= /usr/local
install: build
	cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-dev build-asan build-tsan
