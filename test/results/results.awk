# What `go test -v` says, without what it says of tests that passed: those that failed, those that were skipped and why, and each
# package's result.
function flush_rest(name) {
	for (name in said) printf "=== %s\n%s", name, said[name] # they came to no end
	delete said
	now = ""
}
/^=== (RUN|CONT|NAME|PAUSE) / { now = $3; next }
/^ *--- (PASS|FAIL|SKIP): / {
	if ($2 != "PASS:") printf "%s\n%s", $0, said[$3]
	delete said[$3]
	if (now == $3) now = ""
	next
}
/^(ok|FAIL|\?)([ \t]|$)/ { flush_rest(); print; fflush(); next }
/^PASS$/ { next }
now != "" { said[now] = said[now] $0 "\n"; next }
{ print; fflush() }
END { flush_rest() }
