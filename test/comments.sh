#!/usr/bin/env bash
# Checks the comments of all modules: at most 100 columns, and none of the words that plain English replaces.
# `make comments`.
set -euo pipefail
cd "$(dirname "$0")/.."

find agent controller helm node shared test -name '*.go' ! -name '*.gen.go' ! -path '*/testdata/*' | sort | xargs awk '
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
