#!/bin/sh
# Writes the bill of materials of a Go binary, CycloneDX JSON, from what the linker recorded: sbom.sh BINARY DOCUMENT
# CYCLONEDX_GOMOD names the program, as release.sh has it from tools/release/go.mod.
set -eu
"$CYCLONEDX_GOMOD" bin -json -std -noserial -output "$2" "$1"
# Two builds of one commit are to give the same bytes.
sed -i '/^ *"timestamp": /d' "$2"
