# Power cuts and kills, with both export engines and both quota modes: see test/crash. `make crash` takes an hour, crash-replay
# less than two; crash-smoke is their share of `make test`.
TEST_TARGETS += crash-smoke

CRASH_CUTS        ?= 100
CRASH_CLIENT_CUTS ?= 100
CRASH_KILLS       ?= 500
CRASH_POINTS      ?= 10000

.PHONY: crash
crash: root lab build ## Cut the power 200 times and kill the agent 500 times in the middle of changes (root; CRASH_SEED replays)
	@BNC_BIN=$(BIN) BNC_LAB_BIN=$(LAB) go test -count=1 -timeout 4h -tags crash -v ./test/crash -skip '^(TestReplay|TestFaultyDisk)$$' $(CRASH_FLAGS) \
		-args -cuts $(CRASH_CUTS) -client-cuts $(CRASH_CLIENT_CUTS) -kills $(CRASH_KILLS) -seed $(or $(CRASH_SEED),0)

.PHONY: crash-replay
crash-replay: root lab build ## Cut the power at 10,000 points of recorded writes, and let disks fail (root; CRASH_SEED, CRASH_POINTS)
	@BNC_BIN=$(BIN) BNC_LAB_BIN=$(LAB) go test -count=1 -timeout 4h -parallel 4 -tags crash -v ./test/crash -run '^(TestReplay|TestFaultyDisk)$$' $(CRASH_FLAGS) \
		-args -points $(CRASH_POINTS) -cells 16 -faults 8 -seed $(or $(CRASH_SEED),0)

.PHONY: crash-smoke
crash-smoke: root lab build # 5 power cuts, 20 kills, 24 points of a replay, a disk that fails
	@BNC_BIN=$(BIN) BNC_LAB_BIN=$(LAB) go test -count=1 -timeout 60m -tags crash -v ./test/crash $(CRASH_FLAGS) \
		-args -cuts 3 -client-cuts 2 -kills 20 -seed $(or $(CRASH_SEED),0) | awk -f test/results/results.awk
