package cli

import (
	"bufio"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// terminalOf returns the file of a stream, if it is a terminal.
func terminalOf(stream any) (*os.File, bool) {
	file, isFile := stream.(*os.File)
	return file, isFile && term.IsTerminal(int(file.Fd()))
}

// sizeOf returns the terminal's columns and rows. 0 means no terminal, and no limit.
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

// addYes adds the flag that answers questions.
func addYes(command *cobra.Command) *bool {
	return command.Flags().BoolP("yes", "y", false, "do not ask")
}

// Confirm asks a question in the form of this package. yes answers it.
func Confirm(command *cobra.Command, yes bool, question string) error {
	return streams(command).confirm(yes, question)
}

// confirm asks on the error stream and reads yes or no. Without a terminal, yes must be set.
func (s *session) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if _, ok := terminalOf(s.in); !ok && !s.interactive {
		return &commandError{code: ExitDeclined, cause: errNotConfirmed, advice: "Use --yes without a terminal."}
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
