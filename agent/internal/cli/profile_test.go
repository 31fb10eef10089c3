package cli

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// prompted answers as soon as the question appears, and stores whether the terminal echoes.
type prompted struct {
	typist, terminal *os.File
	answered, shown  bool
}

func (p *prompted) Write(text []byte) (int, error) {
	if p.answered {
		return len(text), nil
	}
	p.answered = true
	state, err := unix.IoctlGetTermios(int(p.terminal.Fd()), unix.TCGETS)
	if err != nil {
		return 0, err
	}
	p.shown = state.Lflag&unix.ECHO != 0
	if _, err := p.typist.WriteString("the-token\n"); err != nil {
		return 0, err
	}
	return len(text), nil
}

// The terminal does not echo while it asks, and echoes afterwards.
func TestSecretIsNeverShown(t *testing.T) {
	typist, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0) // pts(4)
	assert.NilError(t, err)
	defer typist.Close()
	assert.NilError(t, unix.IoctlSetPointerInt(int(typist.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(typist.Fd()), unix.TIOCGPTN)
	assert.NilError(t, err)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	assert.NilError(t, err)
	defer terminal.Close()

	p := &prompted{typist: typist, terminal: terminal}
	s := &session{in: terminal, err: p}
	token, err := s.readSecret("Token: ")
	assert.NilError(t, err)
	assert.Equal(t, token, "the-token")
	assert.Assert(t, p.answered && !p.shown)
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	assert.NilError(t, err)
	assert.Assert(t, state.Lflag&unix.ECHO != 0)
}
