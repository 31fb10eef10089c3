package nfsbench

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
)

// Load reads rows that Keep has written. It returns no rows if the file does not exist.
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

// Keep adds a row to a file. It replaces an earlier row of the same engine and number of exports.
func Keep(file string, row Row) error {
	rows, err := Load(file)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(old Row) bool { return old.Engine == row.Engine && old.Exports == row.Exports })
	rows = append(rows, row)
	// "kernel" first: it is the subject of the benchmark.
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(-cmp.Compare(a.Engine, b.Engine), cmp.Compare(a.Exports, b.Exports))
	})
	content, err := json.MarshalIndent(rows, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o600)
}
