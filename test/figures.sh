#!/usr/bin/env bash
# Prints how much source there is and how it reads: of the work tree, or of the commit given. `make figures`.
#
# Shipped Go is what the daemons are built from: no tests, generated code or test support. Columns are characters, and a
# tab is one, as for golangci-lint's lll.
set -euo pipefail
shopt -s nullglob # older commits have no docs/operations
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
	tree=$(mktemp -d)
	trap 'rm -rf "$tree"' EXIT
	git archive "$1" | tar -x -C "$tree"
	cd "$tree"
fi

# The names after test/ are where older commits keep test support.
support='/(test|lab|csiservertest|bench|nfsbench|nfstest|testpool|controllertest|fakeagent|mounttest)/'

go_files() {
	find "$@" -name '*.go' ! -name '*.gen.go' | sort
}

shipped() {
	go_files "$@" | grep -v '_test\.go$' | grep -vE "$support"
}

# source_figures prints one row of figures for the files on standard input.
source_figures() {
	xargs cat | awk -v name="$1" '
		length > 100 { long++ }
		!/[^ \t]/ { blank++; next }
		/^[ \t]*\/\// { comments++; wide += length > 100 }
		END {
			printf "%-12s %10d %7.1f %% %10d %8.1f %% %8.1f %%\n",
				name, NR - blank, 100 * blank / NR, long, 100 * comments / (NR - blank), 100 * wide / comments
		}'
}

# median_sentence prints how many words the median sentence of a document has. Code, tables, headings and fragments without
# a full stop are no sentences.
median_sentence() {
	awk '
		function flush(   n, i, sentences, words) {
			gsub(/<!--[^>]*-->/, "", text)
			gsub(/`[^`]*`/, "code", text)
			sub(/:[ \t]*$/, ".", text)
			n = split(text, sentences, /[.!?][)"*_]*([ \t]+|$)/)
			for (i = 1; i < n; i++) print split(sentences[i], words, " ")
			text = ""
		}
		/^[ \t]*(```|~~~)/ { flush(); code = !code; next }
		code { next }
		/^[ \t]*$/ || /^[ \t]*[|#]/ { flush(); next }
		/^[ \t]*([-*+]|[0-9]+\.)[ \t]/ { flush(); sub(/^[ \t]*([-*+]|[0-9]+\.)[ \t]+/, "") }
		{ text = text " " $0 }
		END { flush() }' "$@" | sort -n | awk '{ words[NR] = $1 } END { printf "%d", words[int((NR + 1) / 2)] }'
}

echo "shipped Go     non-blank    blank  >100 cols  comments  comments >100 cols"
for module in agent controller node shared; do
	shipped "$module" | source_figures "$module"
done
echo "all Go"
go_files agent controller node shared test | source_figures "with tests"
echo
echo "median words a sentence"
for document in README.md docs/*.md docs/operations/*.md; do
	printf '%-40s %3s\n' "$document" "$(median_sentence "$document")"
done
printf '%-40s %3s\n' "all" "$(median_sentence README.md docs/*.md docs/operations/*.md)"
