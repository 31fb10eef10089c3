package nfsbench

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
)

// Load reads rows that Keep has written; none from a file that is not there.
func Load(file string) (rows []Row, err error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rows, json.Unmarshal(content, &rows)
}

// Keep puts a row into a file, in place of an earlier one of the same engine and number of exports.
func Keep(file string, row Row) error {
	rows, err := Load(file)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(old Row) bool { return old.Engine == row.Engine && old.Exports == row.Exports })
	rows = append(rows, row)
	// "kernel" first: it is what this is about.
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(-cmp.Compare(a.Engine, b.Engine), cmp.Compare(a.Exports, b.Exports))
	})
	content, err := json.MarshalIndent(rows, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o600)
}
