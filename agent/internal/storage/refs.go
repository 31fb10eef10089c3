package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
)

// References are kept as one file each, so that taking one away is an unlink: on a filesystem without room for even a
// rewritten metadata.json, unlink still works (it may use btrfs' global reserve), and so unexport does.

const (
	refSuffix = ".json"
	refSum    = 16 // bytes of a checksum that make a reference's name
)

// key tells references of one volume apart: the client and the labels of who asked.
func (r Ref) key() string {
	var b strings.Builder
	b.WriteString(r.Client.String())
	for key, value := range r.Labels.All() {
		b.WriteString("\x00" + key + "=" + value)
	}
	return b.String()
}

func (r Ref) file() string {
	sum := sha256.Sum256([]byte(r.key()))
	return hex.EncodeToString(sum[:refSum]) + refSuffix
}

// isRefFile recognises the names that file gives, and those under which such a file is written.
func isRefFile(name string) bool {
	name, found := strings.CutSuffix(strings.TrimSuffix(name, temporarySuffix), refSuffix)
	sum, err := hex.DecodeString(name)
	return found && err == nil && len(sum) == refSum
}

// hasLabels reports whether the reference carries all of the labels.
func (r Ref) hasLabels(labels map[string]string) bool {
	for k, v := range labels {
		if have, found := r.Labels.Get(k); !found || have != v {
			return false
		}
	}
	return true
}

func sortRefs(refs []Ref) {
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.key(), b.key()) })
}

func (d *disk) writeRef(dir *os.File, ref Ref) error {
	clients, err := beneath.OpenDir(dir, clientsDir)
	if os.IsNotExist(err) {
		if err := d.mkdir(dir, clientsDir, 0o700); err != nil {
			return err
		}
		clients, err = beneath.OpenDir(dir, clientsDir)
	}
	if err != nil {
		return err
	}
	defer clients.Close()
	content, err := json.MarshalIndent(ref, "", "  ")
	if err != nil {
		return err
	}
	return d.writeFile(clients, ref.file(), append(content, '\n'))
}

func (d *disk) removeRef(dir *os.File, ref Ref) error {
	clients, err := beneath.OpenDir(dir, clientsDir)
	if err != nil {
		return ignoreNotExist(err)
	}
	defer clients.Close()
	return d.unlink(clients, ref.file())
}

// tidyRefs removes what interrupted writes left.
func (t *Tenant) tidyRefs(dir *os.File) error {
	clients, err := beneath.OpenDir(dir, clientsDir)
	if err != nil {
		return ignoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	for _, name := range names {
		if strings.HasSuffix(name, temporarySuffix) {
			err = errors.Join(err, t.tidyFile(clients, name))
		}
	}
	return err
}

// readRefs reads the references of the volume in dir, in the order of their keys. What an interrupted write left is
// passed over. With an error it returns those that can be read.
func readRefs(dir *os.File) ([]Ref, error) {
	clients, err := beneath.OpenDir(dir, clientsDir)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	var refs []Ref
	for _, name := range names {
		if strings.HasSuffix(name, temporarySuffix) {
			continue
		}
		ref, bad := readRef(clients, name)
		if bad != nil {
			err = errors.Join(err, bad)
			continue
		}
		refs = append(refs, ref)
	}
	sortRefs(refs)
	return refs, err
}

func readRef(clients *os.File, name string) (ref Ref, err error) {
	content, err := beneath.ReadFile(clients, name)
	if err != nil {
		return ref, err
	}
	if err := json.Unmarshal(content, &ref); err != nil {
		return ref, fmt.Errorf("%s/%s cannot be read: %w", clientsDir, name, err)
	}
	if ref.Client == (netip.Addr{}) || ref.file() != name {
		return ref, fmt.Errorf("%s/%s is not the reference that its name says", clientsDir, name)
	}
	return ref, nil
}
