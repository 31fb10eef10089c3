package nfsd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// changingOperations are the NFSv4 operations that change metadata and that the server may answer
// before the change is durable. Their numbers are those of enum nfs_opnum4 (RFC 7862, RFC 8276).
//
// WRITE is not one of them: a client knows that its data may be lost until COMMIT has succeeded.
var changingOperations = []int{
	6,      // CREATE: directories, symbolic links, devices
	11,     // LINK
	18,     // OPEN: creates and truncates
	28,     // REMOVE
	29,     // RENAME
	34,     // SETATTR: truncates as well
	59, 62, // ALLOCATE, DEALLOCATE
	60, 71, // COPY, CLONE
	73, 75, // SETXATTR, REMOVEXATTR
}

// ChangingOperations returns the number of NFSv4 operations since the server was loaded that may
// have changed metadata. The server counts an operation after its execution and before the reply
// (nfsd4_proc_compound in fs/nfsd/nfs4proc.c), so the number includes every operation that was
// answered before the call. It is 0 while the kernel has no NFS server.
//
// The number is that of this process's network namespace. Before Linux 6.9 it is that of all
// namespaces.
func (s *Server) ChangingOperations() (uint64, error) {
	content, err := os.ReadFile(filepath.Join(s.procRoot, "net/rpc/nfsd"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the NFS server's counters: %w", err)
	}
	return parseOperations(string(content))
}

// parseOperations reads the line "proc4ops COUNT" followed by as many numbers, by operation.
func parseOperations(content string) (sum uint64, err error) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "proc4ops" {
			continue
		}
		counts := fields[2:]
		for _, operation := range changingOperations {
			if operation >= len(counts) {
				continue // newer than the kernel
			}
			count, err := strconv.ParseUint(counts[operation], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the NFS server's counters: %w", err)
			}
			sum += count
		}
		return sum, nil
	}
	return 0, errors.New("read the NFS server's counters: line proc4ops is missing")
}
