package nfsd

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Versions are the NFS versions that the server offers, oldest first; none while it does not run.
// They can be changed only while it does not run (__write_versions in fs/nfsd/nfsctl.c).
func (s *Server) Versions() []string {
	text, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/versions"))
	if err != nil || !s.Runs() {
		return nil
	}
	return parseVersions(string(text))
}

// parseVersions reads a line such as "+3 +4 -4.0 +4.1 +4.2". The kernel never writes "+4.0": "+4"
// without "-4.0" says so (nfsd_print_version_support in fs/nfsd/nfsctl.c).
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

// Older are those of the versions that are older than 4.1.
func Older(versions []string) []string {
	return slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return v == "4.1" || v == "4.2" })
}

// WarnOfOlderVersions logs which versions a running server offers that volumes do not need.
func (s *Server) WarnOfOlderVersions(logger *slog.Logger, engine string) {
	older := Older(s.Versions())
	if len(older) == 0 {
		return
	}
	logger.Warn("the NFS server offers versions older than 4.1, which volumes do not need: set vers3=n and vers4.0=n in the section "+
		"[nfsd] of /etc/nfs.conf and restart nfs-server, unless other exports of this host need them",
		"engine", engine, "versions", strings.Join(older, ","))
}

// CheckNewest fails where a running server offers NFSv4.2 and newest is "4.1". Clients that are
// mounted with 4.2 can have the server copy files, which passes the limits of full quotas.
func (s *Server) CheckNewest(newest, advice string) error {
	if newest != "4.1" || !slices.Contains(s.Versions(), "4.2") {
		return nil
	}
	return fmt.Errorf("the newest NFS version must be 4.1, and the NFS server that runs offers 4.2: %s", advice)
}
