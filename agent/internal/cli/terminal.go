package cli

import (
	"bufio"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// fileOf is the file behind a stream, if it is a terminal.
func terminalOf(stream any) (*os.File, bool) {
	file, isFile := stream.(*os.File)
	return file, isFile && term.IsTerminal(int(file.Fd()))
}

// sizeOf is the terminal's columns and rows now; 0 where there is no terminal, which is as wide as need be.
func sizeOf(stream io.Writer) (width, height int) {
	file, ok := terminalOf(stream)
	if !ok {
		return 0, 0
	}
	width, height, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

// Confirm asks a question as commands of this package do: yes answers it.
func Confirm(command *cobra.Command, yes bool, question string) error {
	return streams(command).confirm(yes, question)
}

// confirm asks on the error stream and reads yes or no. Without a terminal nobody can answer: yes must then be given.
func (s *session) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if _, ok := terminalOf(s.in); !ok && !s.interactive {
		return &commandError{code: ExitDeclined, cause: errNotConfirmed, advice: "Say --yes where nobody can be asked."}
	}
	s.say("%s [y/N] ", question)
	answer, err := bufio.NewReader(s.in).ReadString('\n')
	if err != nil && answer == "" {
		s.say("\n")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &commandError{code: ExitDeclined, cause: errNotConfirmed, advice: "Nothing was changed."}
}
