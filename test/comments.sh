#!/usr/bin/env bash
# Checks the comments of the directories below: at most 100 columns, and none of the words that plain English replaces.
# A directory joins the list when its comments pass. `make comments`.
set -euo pipefail
cd "$(dirname "$0")/.."

directories=(
	agent/cmd
	agent/internal/api
	agent/internal/beneath
	agent/internal/btrfs
	agent/internal/check
	agent/internal/cli
	agent/internal/config
	agent/internal/doctor
	agent/internal/inspect
	agent/internal/labels
	agent/internal/metrics
	agent/internal/migrate
	agent/internal/nfs
	agent/internal/pool
	agent/test
	controller
	node
	agent/internal/storage
	agent/internal/task
	shared/agentapi
	shared/agentclient
	shared/configdoc
	shared/csiserver
	shared/id
	shared/lab
	shared/log
	shared/mountoptions
	shared/version
	test/cmd
	test/crash
)

find "${directories[@]}" -name '*.go' ! -name '*.gen.go' ! -path '*/testdata/*' | sort | xargs awk '
	function report(problem) {
		printf "%s:%d: %s: %s\n", FILENAME, FNR, problem, $0
		bad = 1
	}
	/^[ \t]*\/\/[ \t]/ && length > 100 { report("comment is wider than 100 columns") }
	match($0, /(^|[ \t])\/\/ .*/) {
		text = " " tolower(substr($0, RSTART)) " "
		if (match(text, /[^a-z](somebody|nobody|whoever|anew|beside|else|of its own|of their own)[^a-z]/))
			report("replace \"" substr(text, RSTART + 1, RLENGTH - 2) "\" (CONTRIBUTING.md)")
	}
	END { exit bad }'
