// Package migrate migrates the volumes and snapshots of a btrfs-nfs-csi agent of versions 0.9 to
// 0.12 in place. Data, names and paths do not change. It rewrites metadata.json in the form of this
// agent. It stores the original state, so that everything can be undone.
package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// keptDir holds the original state. It is relative to the base directory.
const keptDir = ".agent/migration"

// Item is one volume or snapshot of the older agent.
type Item struct {
	Tenant   string   `json:"tenant"`
	Name     string   `json:"name"`
	Snapshot bool     `json:"snapshot"`
	Dir      string   `json:"dir"`
	Steps    []string `json:"steps"`             // what the migration does, in this order
	Problem  string   `json:"problem,omitempty"` // why the migration does not change it
	Done     bool     `json:"done"`

	old    older
	before state
}

// Plan is the planned work on a pool.
type Plan struct {
	BasePath string   `json:"base_path"`
	Tenants  []string `json:"tenants"`  // that AGENT_TENANTS must name
	Items    []Item   `json:"items"`    // of the older agent
	Adopted  int      `json:"adopted"`  // number that already have the form of this agent
	Problems int      `json:"problems"` // number of items that the migration does not change
}

// Look finds volumes and snapshots of an older agent in the base directory. It changes nothing.
func Look(base string) (Plan, error) {
	plan := Plan{BasePath: base, Tenants: []string{}, Items: []Item{}}
	pool, err := btrfs.Open(base)
	if err != nil {
		return plan, fmt.Errorf("open base path %s: %w", base, err)
	}
	defer pool.Close()
	root, err := os.Open(base)
	if err != nil {
		return plan, err
	}
	defer root.Close()
	tenants, err := directories(root, ".")
	if err != nil {
		return plan, err
	}
	for _, tenant := range tenants {
		if err := plan.lookAtTenant(root, tenant); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

func (p *Plan) lookAtTenant(root *os.File, tenant string) error {
	volumes, err := directories(root, tenant)
	if err != nil {
		return err
	}
	snapshots, err := directories(root, filepath.Join(tenant, ondisk.SnapshotsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	count := len(p.Items) + p.Adopted
	for _, name := range volumes {
		p.look(root, Item{Tenant: tenant, Name: name})
	}
	for _, name := range snapshots {
		p.look(root, Item{Tenant: tenant, Name: name, Snapshot: true})
	}
	if len(p.Items)+p.Adopted > count {
		p.Tenants = append(p.Tenants, tenant)
	}
	return nil
}

// directories returns the names in the directory that can belong to an agent, without
// ondisk.SnapshotsDir.
func directories(root *os.File, path string) ([]string, error) {
	dir, err := openat2.OpenDir(root, path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && id.ValidateName(entry.Name()) == nil {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (i *Item) path() string {
	if i.Snapshot {
		return filepath.Join(i.Tenant, ondisk.SnapshotsDir, i.Name)
	}
	return filepath.Join(i.Tenant, i.Name)
}

// look adds the item to the plan, if it belongs to the older agent.
func (p *Plan) look(root *os.File, item Item) {
	item.Dir = filepath.Join(p.BasePath, item.path())
	dir, err := openat2.OpenDir(root, item.path())
	var content []byte
	if err == nil {
		defer dir.Close()
		content, err = openat2.ReadFile(dir, ondisk.MetadataFile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return // another directory: the agent will report it
	}
	var probe struct {
		Version *int `json:"version"`
	}
	if err == nil {
		if err = json.Unmarshal(content, &probe); err != nil {
			err = fmt.Errorf("read %s: %w", ondisk.MetadataFile, err)
		}
	}
	if err == nil && probe.Version != nil {
		p.Adopted++
		return
	}
	if err == nil {
		err = item.read(dir, content)
	}
	if err != nil {
		item.Problem = err.Error()
		p.Problems++
	}
	p.Items = append(p.Items, item)
}

// read parses the older metadata, and checks the data.
func (i *Item) read(dir *os.File, content []byte) error {
	if err := json.Unmarshal(content, &i.old); err != nil {
		return fmt.Errorf("read %s: %w", ondisk.MetadataFile, err)
	}
	if err := i.old.validate(i.Name, i.Snapshot); err != nil {
		return err
	}
	if err := i.checkClients(dir); err != nil {
		return err
	}
	data, err := openat2.OpenDir(dir, ondisk.DataDir)
	if err != nil {
		return err
	}
	defer data.Close()
	info, err := btrfs.Subvolume(data)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	i.before = state{Content: string(content), Writable: i.Snapshot && !info.ReadOnly}
	if i.before.Immutable, err = immutable(dir); err != nil {
		return err
	}
	i.plan(info)
	return nil
}

// checkClients verifies that references in the directory are those of an interrupted migration. The
// older agent has none. With other references, this agent would export the volume to any client
// that a client has named in one.
func (i *Item) checkClients(dir *os.File) error {
	clients, err := openat2.OpenDir(dir, ondisk.ClientsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(i.old.adoptedRefs(), func(r ondisk.Ref) bool { return r.FileName() == strings.TrimSuffix(name, ondisk.TemporarySuffix) }) {
			return fmt.Errorf("%s/%s must belong to a client in %s: remove it", ondisk.ClientsDir, name, ondisk.MetadataFile)
		}
	}
	return nil
}

func (i *Item) plan(info btrfs.SubvolumeInfo) {
	i.Steps = append(i.Steps, fmt.Sprintf("store %s in %s, for --undo", ondisk.MetadataFile, keptDir))
	if i.before.Immutable {
		i.Steps = append(i.Steps, "remove the immutable attribute of "+ondisk.MetadataFile)
	}
	if i.before.Writable {
		i.Steps = append(i.Steps, "make the snapshot's data read-only")
	}
	for _, client := range i.old.refs() {
		i.Steps = append(i.Steps, "write a reference for the export to "+client.IP)
	}
	i.Steps = append(i.Steps, fmt.Sprintf("rewrite %s: version 1, subvolume %s, size %d", ondisk.MetadataFile, info.UUID, i.old.SizeBytes))
	i.before.uuid = info.UUID
}
