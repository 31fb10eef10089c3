#!/usr/bin/env bash
# Prints how many files of this repository are on the path of one CreateVolume (agent and controller) and one
# NodeStageVolume: `make path-figures`, with LIST=1 for their names. $1 holds daemons built with -cover, $2 is the lab.
#
# A file is on the path if the call runs code in it that start and stop do not run.
set -euo pipefail
programs=$1
lab=$2
dir=$(mktemp -d "$programs/data.XXXXXX") # the lab's guest sees this directory
trap 'rm -rf "$dir"' EXIT

BNC_BIN=$programs "$lab" exec -memory 3072 "$programs/path-calls" "$dir"

# covered prints the blocks that ran, FILE:BLOCK, sorted.
covered() {
	go tool covdata textfmt -i="$dir/$1" -o="$dir/$1.txt"
	awk 'NR > 1 && $NF > 0 { print $1 }' "$dir/$1.txt" | sort -u
}

# path prints the files that a call adds.
path() {
	comm -13 <(covered "start-$1") <(covered "$1") | cut -d: -f1 | sort -u
}

for call in create stage; do
	path "$call" >"$dir/$call.files"
	printf '%-8s %3d files, of those generated: %d\n' "$call" "$(wc -l <"$dir/$call.files")" "$(grep -c '\.gen\.go$' "$dir/$call.files" || true)"
	if [ -n "${LIST:-}" ]; then
		sed 's|^github.com/btrfs-nfs-csi/btrfs-nfs-csi/|  |' "$dir/$call.files"
	fi
done
