#!/usr/bin/env bash
# Runs every fuzz target of the workspace, one after the other, for the time given (default 5m). `make fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
duration=${1:-5m}
grep -rn --include='*_test.go' -oE '^func Fuzz[A-Za-z0-9]+' shared agent controller node | while IFS=: read -r file _ function; do
	target=${function#func }
	echo "== $target in ${file%/*}, $duration"
	(cd "${file%/*}" && GOWORK=off go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" .) </dev/null
done
