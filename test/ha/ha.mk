# Failover between two storage hosts, in guests: see test/ha. `make ha` takes a quarter of an hour; ha-smoke is its share of `make test`.
TEST_TARGETS += ha-smoke

HA_TEST := BNC_BIN=$(BIN) BNC_LAB_BIN=$(LAB) go test -count=1 -timeout 90m -tags ha

.PHONY: ha
ha: root lab build ## Move and cut off a storage host under load, with DRBD, both engines, Corosync and Pacemaker (root)
	@$(LAB) setup postgresql
	@$(HA_TEST) -v ./test/ha $(HA_FLAGS)

.PHONY: ha-smoke
ha-smoke: root lab build # a planned move with one engine
	@$(HA_TEST) -v -run '^TestPlannedMove$$/^exportfs$$' ./test/ha $(HA_FLAGS) | awk -f test/results/results.awk
