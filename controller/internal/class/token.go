package class

import (
	"errors"
	"fmt"
	"strings"
)

// ErrMisconfigured means that an administrator has to correct a class or a secret.
var ErrMisconfigured = errors.New("wrong configuration")

// TokenFrom reads a token from a secret of a request or of the API. It trims surrounding white
// space, such as an editor's newline.
func TokenFrom(secret map[string]string) (token string, given bool, err error) {
	value, given := secret[TokenKey]
	if !given {
		return "", false, nil
	}
	value = strings.TrimSpace(value)
	if err := CheckToken(value); err != nil {
		return "", true, fmt.Errorf("key %q %w", TokenKey, err)
	}
	return value, true, nil
}

// CheckToken refuses a token that a header cannot carry. The error does not contain the token.
func CheckToken(token string) error {
	if token == "" {
		return errors.New("is empty")
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return fmt.Errorf("holds a character that a token cannot have (byte %d)", i)
		}
	}
	return nil
}
