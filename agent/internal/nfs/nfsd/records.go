package nfsd

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// RecordsClients reports whether the running server uses nfsdcld(8) to record its clients. Clients
// without a record cannot reclaim opens and locks after the server's next start. At its start the
// server waits about a second for nfsdcld to open the pipe nfsd/cld. It removes the pipe if it
// gives up (nfsd4_cld_tracking_init in fs/nfsd/nfs4recover.c).
//
// known is false if the server does not run or rpc_pipefs is not mounted.
func (s *Server) RecordsClients() (records, known bool) {
	mounts, err := os.ReadFile(filepath.Join(s.procRoot, "self/mounts"))
	if err != nil || !s.Runs() {
		return false, false
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "rpc_pipefs" {
			continue
		}
		_, err := os.Lstat(filepath.Join(fields[1], "nfsd/cld"))
		switch {
		case err == nil:
			return true, true
		case errors.Is(err, os.ErrNotExist):
			known = true
		}
	}
	return false, known
}

// WarnOfRecords logs that the running server does not record its clients.
func (s *Server) WarnOfRecords(logger *slog.Logger, engine, advice string) {
	records, known := s.RecordsClients()
	if known && !records {
		logger.Warn("NFS server does not use nfsdcld: clients cannot reclaim locks after its next start: "+advice, "engine", engine)
	}
}
