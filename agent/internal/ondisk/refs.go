package ondisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// The directory of a volume contains one file for each reference, so dropping a reference is an
// unlink. On a filesystem without room for a rewritten metadata.json, unlink still works, because
// btrfs lets it use the global reserve. So unexport works, too.
//
// The name of a file shows its state. hash is the hash of the key of the reference:
//
//	{hash}.json   version 1, written up to 57e475d: file handles contain the subvolume's UUID
//	{hash}.ref    version 2: file handles contain the file system ID of the attachment
//	{hash}.ended  either version, after an unexport has begun: gives the client no access
//
// On a pool without room for data, the file is a symbolic link. The text of the link is the content
// of the file.
//
// An agent that knows only version 1 finds that the content of a .ref file does not match its name.
// It quarantines the volume and does not change its exports, instead of exporting it by UUID.
const (
	refSuffix1  = ".json"
	refSuffix   = ".ref"
	endedSuffix = ".ended"
	refSum      = 16 // bytes of the checksum in the name of a reference
)

var refSuffixes = []string{refSuffix1, refSuffix, endedSuffix}

// refFile is the content of the file of a reference.
type refFile struct {
	Version int `json:"version,omitempty"` // absent in version 1
	Ref
}

// Key identifies a reference within a volume: the client and the labels of the caller.
func (r Ref) Key() string {
	var b strings.Builder
	b.WriteString(r.Client.String())
	for _, label := range r.Labels {
		b.WriteString("\x00" + label.Key + "=" + label.Value)
	}
	return b.String()
}

// stem is the part of the file name that does not depend on the state of the reference.
func (r Ref) stem() string {
	sum := sha256.Sum256([]byte(r.Key()))
	return hex.EncodeToString(sum[:refSum])
}

// FileName returns the name of the file of the reference.
func (r Ref) FileName() string {
	switch {
	case r.Ended:
		return r.stem() + endedSuffix
	case r.Attachment == Attachment{}:
		return r.stem() + refSuffix1
	default:
		return r.stem() + refSuffix
	}
}

// isRefFile recognizes the names that FileName returns, and the temporary names of these files.
func isRefFile(name string) bool {
	name = strings.TrimSuffix(name, TemporarySuffix)
	suffix := filepath.Ext(name)
	sum, err := hex.DecodeString(strings.TrimSuffix(name, suffix))
	return slices.Contains(refSuffixes, suffix) && err == nil && len(sum) == refSum
}

// HasLabels reports whether the reference carries all these labels.
func (r Ref) HasLabels(labels map[string]string) bool {
	for k, v := range labels {
		if have, found := r.Labels.Get(k); !found || have != v {
			return false
		}
	}
	return true
}

// writeRef writes the file of the reference, then removes those of its other states. Like
// writeMetadata, it keeps unknown fields of the present file.
func (d *Disk) writeRef(dir *os.File, ref Ref) error {
	clients, err := openat2.OpenDir(dir, ClientsDir)
	if os.IsNotExist(err) {
		clients, err = d.makeDir(dir, ClientsDir, 0o700)
	}
	if err != nil {
		return err
	}
	defer clients.Close()
	content, err := ref.Encode()
	if err != nil {
		return err
	}
	present, err := presentRef(clients, ref)
	if err != nil {
		return err
	}
	if content, err = keepUnknown[refFile](content, present); err != nil {
		return err
	}
	err = d.writeFile(clients, ref.FileName(), content)
	if isErrno(err, unix.ENOSPC) {
		if bad := d.writeLink(clients, ref.FileName(), content); bad == nil {
			err = nil
		} else {
			err = errors.Join(err, bad)
		}
	}
	if err != nil {
		return err
	}
	return d.unlinkRef(clients, ref, ref.FileName())
}

// unlinkRef removes the files of the reference in all states, except the file kept.
func (d *Disk) unlinkRef(clients *os.File, ref Ref, kept string) error {
	for _, suffix := range refSuffixes {
		name := ref.stem() + suffix
		if name == kept {
			continue
		}
		if err := d.unlink(clients, name); err != nil {
			return err
		}
	}
	return nil
}

// Encode returns the content of the file.
func (r Ref) Encode() ([]byte, error) {
	file := refFile{Ref: r}
	if version := r.version(); version > 1 {
		file.Version = version
	}
	return encodeFile(file)
}

// presentRef reads the file of the reference in any state. It returns nil if there is none. A live
// one takes precedence over an ended one.
func presentRef(clients *os.File, ref Ref) ([]byte, error) {
	for _, suffix := range refSuffixes {
		content, err := readRefFile(clients, ref.stem()+suffix)
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			_, err = decodeRef(content, ref.stem()+suffix)
		}
		return content, err
	}
	return nil, nil
}

// isReplaced reports whether name is the ended file of a reference that has a live one.
func isReplaced(name string, names []string) bool {
	stem, ended := strings.CutSuffix(name, endedSuffix)
	return ended && (slices.Contains(names, stem+refSuffix) || slices.Contains(names, stem+refSuffix1))
}

// ReadRefs reads the references of the volume in dir, sorted by key, and skips the remains of
// interrupted writes. With an error it returns those that can be read.
func ReadRefs(dir *os.File) ([]Ref, error) {
	clients, err := openat2.OpenDir(dir, ClientsDir)
	if err != nil {
		return nil, openat2.IgnoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	var refs []Ref
	for _, name := range names {
		if strings.HasSuffix(name, TemporarySuffix) || isReplaced(name, names) {
			continue
		}
		ref, bad := readRef(clients, name)
		if bad != nil {
			err = errors.Join(err, bad)
			continue
		}
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.Key(), b.Key()) })
	endAttachments(refs)
	refs, disagree := agreeing(refs)
	return refs, errors.Join(err, disagree)
}

// endAttachments marks all references of an attachment if one of them has ended, because a kill can
// come between two marks.
func endAttachments(refs []Ref) {
	type held struct {
		client netip.Addr
		Attachment
	}
	ended := map[held]bool{}
	for _, ref := range refs {
		if ref.Ended {
			ended[held{ref.Client, ref.Attachment}] = true
		}
	}
	for i, ref := range refs {
		refs[i].Ended = ended[held{ref.Client, ref.Attachment}]
	}
}

func readRef(clients *os.File, name string) (Ref, error) {
	content, err := readRefFile(clients, name)
	if err != nil {
		return Ref{}, err
	}
	return decodeRef(content, name)
}

// readRefFile reads a file, or the text of a link: see writeLink.
func readRefFile(clients *os.File, name string) ([]byte, error) {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(clients.Fd()), name, text)
	if err == unix.EINVAL { // not a link: readlink(2)
		return openat2.ReadFile(clients, name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "readlink", Path: clients.Name() + "/" + name, Err: err}
	}
	return text[:n], nil
}

func decodeRef(content []byte, name string) (Ref, error) {
	var file refFile
	if err := json.Unmarshal(content, &file); err != nil {
		return Ref{}, fmt.Errorf("%s/%s cannot be read: %w", ClientsDir, name, err)
	}
	if file.Version > refVersion {
		return Ref{}, fmt.Errorf("%s/%s has version %d, written by a newer agent; this one reads up to %d", ClientsDir, name, file.Version, refVersion)
	}
	ref := file.Ref
	ref.Ended = strings.HasSuffix(name, endedSuffix)
	if ref.FileName() != name {
		return Ref{}, fmt.Errorf("%s/%s is not the reference that its name says", ClientsDir, name)
	}
	if err := nfs.ValidateClient(ref.Client); err != nil {
		return Ref{}, fmt.Errorf("%s/%s cannot be exported: %w", ClientsDir, name, err)
	}
	if ref.Client.Is4In6() { // for the server this is the IPv4 client, which other references may name
		return Ref{}, fmt.Errorf("%s/%s must name client %s by its IPv4 address, got %s", ClientsDir, name, ref.Client.Unmap(), ref.Client)
	}
	return ref, nil
}

// agreeing omits references of clients whose files cannot come from an agent: two files of one
// reference, or live references of different attachments. refs are sorted by key, and so by client.
func agreeing(refs []Ref) ([]Ref, error) {
	var err error
	bad := map[netip.Addr]bool{}
	live := map[netip.Addr]Attachment{}
	for i, ref := range refs {
		if i > 0 && ref.Key() == refs[i-1].Key() {
			bad[ref.Client] = true
			err = errors.Join(err, fmt.Errorf("%s has two files of one reference of %s", ClientsDir, ref.Client))
		}
		if ref.Ended {
			continue
		}
		if attachment, found := live[ref.Client]; found && attachment != ref.Attachment {
			bad[ref.Client] = true
			err = errors.Join(err, fmt.Errorf("%s has references of %s with different file system IDs", ClientsDir, ref.Client))
		}
		live[ref.Client] = ref.Attachment
	}
	return slices.DeleteFunc(refs, func(r Ref) bool { return bad[r.Client] }), err
}

// AddRef writes a reference of the volume, and the attach time of the volume, and makes both
// durable. On a pool without room for the metadata, v gets the attach time that it had before.
func (d *Directory) AddRef(ctx context.Context, v *Volume, ref Ref, before time.Time) error {
	dir, err := d.open(v.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := d.disk.WithReserve(ctx, func() error { return d.disk.writeRef(dir, ref) }); err != nil {
		return err
	}
	err = d.disk.writeMetadata(dir, v.Metadata())
	if isErrno(err, unix.ENOSPC) {
		v.LastAttachAt, err = before, nil
	}
	if err != nil {
		return err
	}
	return d.disk.Commit(ctx)
}

// EndRefs marks references as ended. The mark is a rename, which needs no new block for data. It
// needs no commit: a power cut that reverts it also ends the NFS server.
func (d *Directory) EndRefs(volume string, refs []Ref) error {
	clients, err := d.open(volume + "/" + ClientsDir)
	if err != nil {
		return err
	}
	defer clients.Close()
	for _, ref := range refs {
		if ref.Ended {
			continue
		}
		if err := d.disk.rename(clients, ref.FileName(), ref.stem()+endedSuffix); err != nil {
			return err
		}
	}
	return nil
}

// RemoveRefs removes the files of references, and makes that durable.
func (d *Directory) RemoveRefs(ctx context.Context, volume string, refs []Ref) error {
	dir, err := d.open(volume)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, ref := range refs {
		if err := d.disk.removeRef(dir, ref); err != nil {
			return err
		}
	}
	return d.disk.Commit(ctx)
}

func (d *Disk) removeRef(dir *os.File, ref Ref) error {
	clients, err := openat2.OpenDir(dir, ClientsDir)
	if err != nil {
		return openat2.IgnoreNotExist(err)
	}
	defer clients.Close()
	return d.unlinkRef(clients, ref, "")
}
