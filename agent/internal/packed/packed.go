// Package packed puts values one behind the other into one piece of memory without pointers. The garbage collector does not look
// into such a piece, and whoever keeps thousands of them keeps no more objects than that.
package packed

import "encoding/binary"

// AppendText appends a text behind its length.
func AppendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// CutText takes what AppendText has appended from the front. The text is a part of the memory of what it is taken from.
func CutText(s string) (text, rest string) {
	n, s := CutNumber(s)
	return s[:n], s[n:]
}

// CutNumber takes what binary.AppendUvarint has appended from the front.
func CutNumber(s string) (n uint64, rest string) {
	for i := range len(s) {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return n, s[i+1:]
		}
	}
	return n, ""
}
