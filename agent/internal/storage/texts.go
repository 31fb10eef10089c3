package storage

import "sync"

// texts has one copy of each text that volumes and snapshots have in common, such as labels: less to keep, and less for the garbage
// collector to look through every two minutes, also when nothing happens. It is there at start only; a nil one keeps nothing.
type texts struct {
	mu   sync.Mutex
	kept map[string]string
}

func newTexts() *texts { return &texts{kept: map[string]string{}} }

func (x *texts) one(text string) string {
	if x == nil {
		return text
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if kept, found := x.kept[text]; found {
		return kept
	}
	x.kept[text] = text
	return text
}

func (x *texts) labels(labels map[string]string) map[string]string {
	if x == nil || labels == nil {
		return labels
	}
	out := make(map[string]string, len(labels))
	for key, value := range labels {
		out[x.one(key)] = x.one(value)
	}
	return out
}

// inPath is a name as the end of its path.
func inPath(path, name string) string { return path[len(path)-len(name):] }
