package config

import (
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/configdoc"
)

func TestDocumentationIsCurrent(t *testing.T) { configdoc.Check(t, "controller", Config{}) }
