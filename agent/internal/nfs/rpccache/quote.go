// Package rpccache reads and writes the text protocol of the kernel's RPC caches below
// /proc/net/rpc (Documentation/filesystems/nfs/rpc-cache.rst): words separated by spaces, one
// message per line.
package rpccache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Quote escapes a word for the kernel and nfs-utils: white space, backslashes, quotes, hash marks
// and control characters become three octal digits. Both decode any byte in this form. The kernel
// itself escapes only some of these (qword_add in net/sunrpc/cache.c).
func Quote(word string) string {
	quoted := 0
	for i := range len(word) {
		if special(word[i]) {
			quoted++
		}
	}
	if quoted == 0 {
		return word
	}
	var out strings.Builder
	out.Grow(len(word) + 3*quoted)
	for i := range len(word) {
		if c := word[i]; special(c) {
			fmt.Fprintf(&out, `\%03o`, c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

func special(c byte) bool {
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
	if !strings.Contains(word, `\`) {
		return word, nil
	}
	out := make([]byte, 0, len(word))
	for i := 0; i < len(word); i++ {
		if word[i] != '\\' {
			out = append(out, word[i])
			continue
		}
		if i+3 >= len(word) {
			return "", fmt.Errorf("%w in %q", errQuoting, word)
		}
		value := 0
		for _, digit := range []byte(word[i+1 : i+4]) {
			if digit < '0' || digit > '7' {
				return "", fmt.Errorf("%w in %q", errQuoting, word)
			}
			value = value<<3 | int(digit-'0')
		}
		if value > 0xff {
			return "", fmt.Errorf("%w in %q", errQuoting, word)
		}
		out = append(out, byte(value))
		i += 3
	}
	return string(out), nil
}

// Words splits one message into unquoted words.
func Words(line string) ([]string, error) {
	fields := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	words := fields[:0]
	for _, field := range fields {
		if field == "" {
			continue
		}
		word, err := Unquote(field)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}
