// Package rpccache reads and writes the text protocol of the kernel's RPC caches below
// /proc/net/rpc (Documentation/filesystems/nfs/rpc-cache.rst): words separated by spaces, one
// message per line.
package rpccache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Quote escapes a word for the kernel and nfs-utils: white space, backslashes, quotes, hash marks
// and control characters become three octal digits. Both decode any byte in this form. The kernel
// itself escapes only some of these (qword_add in net/sunrpc/cache.c).
func Quote(word string) string {
	if !strings.ContainsFunc(word, special) {
		return word
	}
	var out strings.Builder
	for i := range len(word) {
		if c := word[i]; special(rune(c)) {
			fmt.Fprintf(&out, `\%03o`, c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

func special(c rune) bool {
	return c <= ' ' || c == 0x7f || c == '\\' || c == '"' || c == '#'
}

// Hex formats bytes as a binary word of the kernel: \x and two digits per byte.
func Hex(b []byte) string { return `\x` + hex.EncodeToString(b) }

var errQuoting = errors.New("malformed quoting")

// Unquote is the inverse of Quote, and of Hex if the whole word is binary.
func Unquote(word string) (string, error) {
	if digits, ok := strings.CutPrefix(word, `\x`); ok {
		raw, err := hex.DecodeString(digits)
		if err != nil {
			return "", fmt.Errorf("%w in %q", errQuoting, word)
		}
		return string(raw), nil
	}
	return UnquoteOctal(word)
}

// UnquoteOctal is the inverse of Quote only, for files in which \x does not start a binary word.
func UnquoteOctal(word string) (string, error) {
	plain, rest, quoted := strings.Cut(word, `\`)
	if !quoted {
		return word, nil
	}
	out := strings.Builder{}
	for ; quoted; plain, rest, quoted = strings.Cut(rest, `\`) {
		out.WriteString(plain)
		value, err := strconv.ParseUint(rest[:min(len(rest), 3)], 8, 8)
		if err != nil || len(rest) < 3 {
			return "", fmt.Errorf("%w in %q", errQuoting, word)
		}
		out.WriteByte(byte(value))
		rest = rest[3:]
	}
	return out.String() + plain, nil
}

// Words splits one message into unquoted words.
func Words(line string) ([]string, error) {
	words := strings.FieldsFunc(strings.TrimSuffix(line, "\n"), func(c rune) bool { return c == ' ' })
	for i, word := range words {
		var err error
		if words[i], err = Unquote(word); err != nil {
			return nil, err
		}
	}
	return words, nil
}
