package nfsd

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Versions returns the NFS versions that the running server offers, oldest first. They can change
// only while it does not run (__write_versions in fs/nfsd/nfsctl.c).
func (s *Server) Versions() []string {
	text, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/versions"))
	if err != nil || !s.Runs() {
		return nil
	}
	return parseVersions(string(text))
}

// parseVersions reads a line such as "+3 +4 -4.0 +4.1 +4.2". The kernel never writes "+4.0": "+4"
// without "-4.0" means 4.0 (nfsd_print_version_support in fs/nfsd/nfsctl.c).
func parseVersions(line string) (offered []string) {
	fields := strings.Fields(line)
	for _, version := range []string{"2", "3", "4.0", "4.1", "4.2"} {
		on := slices.Contains(fields, "+"+version)
		if version == "4.0" {
			on = slices.Contains(fields, "+4") && !slices.Contains(fields, "-4.0")
		}
		if on {
			offered = append(offered, version)
		}
	}
	return offered
}

// Older returns the versions below 4.1.
func Older(versions []string) []string {
	return slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return v == "4.1" || v == "4.2" })
}

// WarnOfOlderVersions logs the versions of a running server that volumes do not need.
func (s *Server) WarnOfOlderVersions(logger *slog.Logger, engine string) {
	older := Older(s.Versions())
	if len(older) == 0 {
		return
	}
	logger.Warn("NFS server offers versions older than 4.1, which volumes do not need: set vers3=n and vers4.0=n in the section "+
		"[nfsd] of /etc/nfs.conf and restart nfs-server, unless other exports of this host need them",
		"engine", engine, "versions", strings.Join(older, ","))
}

// CheckNewest fails if newest is "4.1" and a running server offers NFSv4.2. Clients that mount with
// 4.2 can make the server copy files, which is not limited by full quotas.
func (s *Server) CheckNewest(newest, advice string) error {
	if newest != "4.1" || !slices.Contains(s.Versions(), "4.2") {
		return nil
	}
	return fmt.Errorf("newest NFS version of the running server must be 4.1, got 4.2: %s", advice)
}
