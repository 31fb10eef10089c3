package check

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
)

// WriteJSON prints the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText prints the report as text for administrators.
func (r Report) WriteText(w io.Writer) error {
	p := printer{w: w}
	for _, f := range r.Findings {
		p.finding(f)
	}
	p.line("%s", r.summary())
	for _, kind := range []ondisk.FindingKind{ondisk.NewerMetadata, ondisk.NewerReference} {
		p.newer(string(kind), r.Newer)
	}
	return p.err
}

// newer prints the number of newer files of a kind, and the first of them.
func (p *printer) newer(kind string, all []Newer) {
	files := slices.DeleteFunc(slices.Clone(all), func(n Newer) bool { return n.Kind != kind })
	if len(files) == 0 {
		return
	}
	p.line("%s: %d, the first is %s (%s)", kind, len(files), files[0].Path, files[0].Detail)
	p.line("    %s", files[0].Explanation)
	p.line("    %s", files[0].WayBack)
}

func (r Report) summary() string {
	if r.Clean {
		return r.BasePath + " is clean."
	}
	repairable, repaired := 0, 0
	for _, f := range r.Findings {
		if f.Repairable {
			repairable++
		}
		if f.Repaired {
			repaired++
		}
	}
	if r.Repair {
		return fmt.Sprintf("%s: %d found, %d repaired, %d left.", r.BasePath, len(r.Findings), repaired, len(r.Findings)-repaired)
	}
	text := fmt.Sprintf("%s: %d found; nothing was changed.", r.BasePath, len(r.Findings))
	if repairable > 0 {
		text += fmt.Sprintf(" The agent's next start repairs %d of them; so does \"btrfs-nfs-agent check --repair\".", repairable)
	}
	return text
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) finding(f Finding) {
	p.line("%s: %s", f.Kind, f.Path)
	if f.Detail != "" {
		p.line("    %s", f.Detail)
	}
	p.line("    %s", f.Explanation)
	switch {
	case f.Repaired:
		p.line("    Repaired: %s", f.Remedy)
	case f.Error != "":
		p.line("    NOT repaired: %s", f.Error)
	case f.Repairable:
		p.line("    Repair: %s", f.Remedy)
	default:
		p.line("    %s", f.Remedy)
	}
	p.line("")
}
