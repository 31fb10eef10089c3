package class

import (
	"errors"
	"fmt"
	"strings"
)

// ErrMisconfigured means that an administrator has to change a class or a secret.
var ErrMisconfigured = errors.New("wrong configuration")

// TokenFrom reads a token out of a secret, as it came with a request or from the API. What stands around it, such as the
// newline of an editor, is not part of it.
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

// CheckToken refuses what cannot be sent in a header. The error does not hold the token.
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
