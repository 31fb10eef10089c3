//go:build agentdocs

package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// extraCommands writes the other files of the tarball. Only a build with the tag agentdocs has it.
func extraCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "generate DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error { return generate(command.Root(), args[0]) },
	}}
}

func generate(root *cobra.Command, dir string) error {
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	for _, d := range []string{man, completions} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	root.InitDefaultHelpCmd()
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "btrfs-nfs-csi " + version.Version, Manual: "btrfs-nfs-csi"}
	if date, err := time.Parse(time.RFC3339, version.Date); err == nil {
		header.Date = &date // that of the commit, so that two builds of it are identical
	}
	if err := doc.GenManTree(root, header, man); err != nil {
		return err
	}
	name := filepath.Join(completions, "btrfs-nfs-agent.")
	if err := root.GenBashCompletionFileV2(name+"bash", true); err != nil {
		return err
	}
	if err := root.GenZshCompletionFile(name + "zsh"); err != nil {
		return err
	}
	return root.GenFishCompletionFile(name+"fish", true)
}
