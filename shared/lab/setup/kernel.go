package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is a User Mode Linux kernel that is ready to boot.
type Kernel struct {
	// Version is its release, as in uname -r.
	Version string
	// Program is the path of the kernel.
	Program string
	// ModuleRoot holds lib/modules/<Version>.
	ModuleRoot string
	// Preload is a library for LD_PRELOAD, or empty.
	Preload string
	// Options are options of its command line.
	Options []string
}

// Separate returns the modules of names that are not built into the kernel.
func (k Kernel) Separate(names []string) []string {
	index, err := os.ReadFile(filepath.Join(k.ModuleRoot, "lib/modules", k.Version, "modules.dep"))
	if err != nil {
		return names // modprobe reports the error
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !strings.Contains(string(index), "/"+name+".ko")
	})
}

// Sources of a kernel. The system calls of Debian sid's kernel are twice as fast, and it needs no
// shim. The release's kernel is the fallback if sid's cannot be downloaded or does not run here.
const (
	sid     = "sid"
	release = "release"
)

// EnsureKernel returns the kernel that o requests. It prepares it if the cache does not hold it. It
// returns only kernels that try, a test boot, has accepted.
func EnsureKernel(ctx context.Context, o Options, try func(context.Context, Kernel) error) (Kernel, error) {
	unlock, err := o.Lock("kernel")
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	var problems []error
	for _, source := range sources(o.Kernel) {
		k, err := ensureFrom(ctx, o, source, try)
		if err == nil {
			return k, nil
		}
		problems = append(problems, fmt.Errorf("kernel of %s: %w", source, err))
		if ctx.Err() != nil {
			break
		}
		o.say("no kernel from Debian %s: %v", source, err)
	}
	return Kernel{}, errors.Join(problems...)
}

// sources lists the sources in order.
func sources(choice string) []string {
	switch choice {
	case "":
		return []string{sid, release}
	case sid, release:
		return []string{choice}
	default: // a version: the release's is a smaller download, so it comes first
		return []string{release, sid}
	}
}

func ensureFrom(ctx context.Context, o Options, source string, try func(context.Context, Kernel) error) (Kernel, error) {
	dir := filepath.Join(o.Cache, "kernel", source)
	k, err := readKernel(dir)
	if err != nil {
		if k, err = prepare(ctx, o, source, dir); err != nil {
			return k, err
		}
	}
	if o.Kernel != sid && o.Kernel != release && !strings.HasPrefix(k.Version, o.Kernel) {
		return k, fmt.Errorf("it is %s, not %s", k.Version, o.Kernel)
	}
	return k, testOnce(ctx, o, k, dir, try)
}

// testOnce boots a kernel for the first time on this machine and stores the result.
func testOnce(ctx context.Context, o Options, k Kernel, dir string, try func(context.Context, Kernel) error) error {
	verdict := filepath.Join(dir, "verdict")
	if earlier, err := os.ReadFile(verdict); err == nil && !o.Retry {
		if len(earlier) > 0 {
			return fmt.Errorf("%s (`lab setup` tries again)", earlier)
		}
		return nil
	}
	o.say("testing Linux %s", k.Version)
	err := try(ctx, k)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return os.WriteFile(verdict, nil, 0o644)
	}
	brief, _, _ := strings.Cut(err.Error(), "\n")
	_ = os.WriteFile(verdict, []byte(brief), 0o644) // without it, the kernel is tested again
	return fmt.Errorf("test boot of Linux %s: %w", k.Version, err)
}

// layout increases when prepared directories of older programs are no longer valid.
const layout = 1

type kernelFile struct {
	Layout int
	Kernel Kernel
}

const kernelFileName = "kernel.json"

func readKernel(dir string) (Kernel, error) {
	data, err := os.ReadFile(filepath.Join(dir, kernelFileName))
	if err != nil {
		return Kernel{}, err
	}
	var f kernelFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Kernel{}, err
	}
	if f.Layout != layout {
		return Kernel{}, fmt.Errorf("prepared by another version of the lab")
	}
	return f.Kernel, nil
}

func writeKernel(dir string, k Kernel) error {
	data, err := json.MarshalIndent(kernelFile{Layout: layout, Kernel: k}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, kernelFileName), data, 0o644)
}
