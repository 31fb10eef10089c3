// Command readme prints the chart's README.md, made from its template and the comments in
// values.yaml.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

func main() {
	dir := flag.String("chart", "../btrfs-nfs-csi", "directory of the chart")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "readme:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return err
	}
	page, err := template.ParseFiles(filepath.Join(dir, "README.md.gotmpl"))
	if err != nil {
		return err
	}
	classes, err := classKeys(dir)
	if err != nil {
		return err
	}
	return page.Execute(os.Stdout, map[string]any{"Values": values("", document.Content[0]), "ClassKeys": classes})
}

// value is a row of a table.
type value struct{ Name, Default, Description string }

// mark begins a comment that is a description.
const mark = "# -- "

// values lists the leaves of a mapping. A key whose comment is a description is a leaf, whatever is
// below it.
func values(prefix string, mapping *yaml.Node) []value {
	var out []value
	for i := 0; i < len(mapping.Content); i += 2 {
		key, node := mapping.Content[i], mapping.Content[i+1]
		name := prefix + key.Value
		description, described := descriptionOf(key)
		if node.Kind == yaml.MappingNode && len(node.Content) > 0 && !described {
			out = append(out, values(name+".", node)...)
			continue
		}
		out = append(out, value{name, "`" + inline(node) + "`", description})
	}
	return out
}

func descriptionOf(key *yaml.Node) (string, bool) {
	for line := range strings.SplitSeq(key.HeadComment, "\n") {
		if description, ok := strings.CutPrefix(line, mark); ok {
			return strings.ReplaceAll(description, "|", "\\|"), true
		}
	}
	return "", false
}

// inline writes a value on one line.
func inline(node *yaml.Node) string {
	plain := *node
	plain.HeadComment, plain.FootComment, plain.LineComment = "", "", ""
	flow(&plain)
	text, err := yaml.Marshal(&plain)
	if err != nil {
		return node.Value
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func flow(node *yaml.Node) {
	node.Style |= yaml.FlowStyle
	for _, child := range node.Content {
		child.HeadComment, child.FootComment, child.LineComment = "", "", ""
		flow(child)
	}
}
