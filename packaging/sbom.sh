#!/bin/sh
# Writes the bill of materials of a Go binary, CycloneDX JSON, from what the linker recorded: sbom.sh BINARY DOCUMENT
# release.sh builds the program for it, as pinned in tools/release/go.mod.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/bin/cyclonedx-gomod" bin -json -std -noserial -output "$2" "$1"
# Two builds of one commit are to give the same bytes.
sed -i '/^ *"timestamp": /d' "$2"
