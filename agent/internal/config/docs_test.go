package config

import (
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/configdoc"
)

func TestDocumentationIsCurrent(t *testing.T) { configdoc.Check(t, "agent", Config{}) }

func TestDocumentationOfTheCommandLineIsCurrent(t *testing.T) { configdoc.Check(t, "cli", Client{}) }
