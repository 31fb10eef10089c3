package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// InstallationDocument has the commands that install the chart.
const InstallationDocument = "docs/quickstart.md"

// installAsDocumented runs the commands of the document unchanged. It replaces the placeholders,
// like a reader, and keeps the pods off the nodes.
func (c *Cluster) installAsDocumented(ctx context.Context) error {
	values, err := c.Documented(InstallationDocument, "The chart", "yaml")
	if err != nil {
		return err
	}
	commands, err := c.Documented(InstallationDocument, "The chart", "")
	if err != nil {
		return err
	}
	file := filepath.Join(c.env.State, "documented-values.yaml")
	here := strings.NewReplacer("VERSION", "e2e", "TOKEN", TenantToken, "http://10.0.0.1:8080", AgentURL,
		"./helm/", c.env.Repository+"/helm/", "values.yaml", file)
	if err := os.WriteFile(file, []byte(here.Replace(values)), 0o600); err != nil {
		return err
	}
	nowhere, err := c.valuesFile(podsNowhere())
	if err != nil {
		return err
	}
	for _, command := range Commands(commands) {
		for i, word := range command {
			command[i] = here.Replace(word)
		}
		switch command[0] {
		case "kubectl":
			_, err = c.Kubectl(ctx, command[1:]...)
		case "helm":
			_, err = c.Helm(ctx, c.options.Helm, append(command[1:], "-f", nowhere)...)
		default:
			err = fmt.Errorf("%s: no program for %q", InstallationDocument, command)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var (
	heading = regexp.MustCompile("(?m)^##")
	fence   = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
)

// Documented returns the first block of a language ("" is that of commands) in a section of a
// document of the repository.
func (c *Cluster) Documented(document, section, language string) (string, error) {
	text, err := os.ReadFile(filepath.Join(c.env.Repository, document))
	if err != nil {
		return "", err
	}
	if _, rest, ok := strings.Cut(string(text), "\n### "+section+"\n"); ok {
		for _, block := range fence.FindAllStringSubmatch(heading.Split(rest, 2)[0], -1) {
			if block[1] == language {
				return block[2], nil
			}
		}
	}
	return "", fmt.Errorf("%s: no block of language %q in a section %q", document, language, section)
}

// Commands returns the words of each line of a block, without comments. No word has quotes.
func Commands(block string) [][]string {
	var commands [][]string
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, " # ")
		commands = append(commands, strings.Fields(line))
	}
	return commands
}
