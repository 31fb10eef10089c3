package setup

import (
	"context"
	"debug/elf"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// prepare downloads a kernel to dir and makes it bootable.
func prepare(ctx context.Context, o Options, source, dir string) (Kernel, error) {
	if err := os.RemoveAll(dir); err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Kernel{}, err
	}
	apt, packages := machineApt(), []string{"user-mode-linux"}
	if source == sid {
		o.say("reading the package lists of Debian sid (17 MB, once)")
		var err error
		if apt, err = suiteApt(ctx, filepath.Join(dir, "apt"), sid); err != nil {
			return Kernel{}, err
		}
		defer os.RemoveAll(filepath.Join(dir, "apt"))
		packages = append(packages, "libc6") // newer than that of a stable release, and required
	}
	o.say("downloading the User Mode Linux kernel of %s (40 MB, once)", source)
	if err := apt.download(ctx, dir, packages...); err != nil {
		return Kernel{}, err
	}
	o.say("unpacking it")
	if err := unpack(ctx, dir); err != nil {
		return Kernel{}, err
	}
	k := Kernel{Program: filepath.Join(dir, "usr/bin/linux.uml"), ModuleRoot: filepath.Join(dir, "modules")}
	if err := linkModules(ctx, dir, &k); err != nil {
		return k, err
	}
	var err error
	if source == sid {
		// seccomp filters system calls instead of ptrace stops: twice as fast (Linux 6.16 on).
		k.Options = []string{"seccomp=on"}
		err = useOwnLibc(ctx, dir, k.Program)
	} else {
		k.Preload, err = buildShim(ctx, dir)
	}
	if err != nil {
		return k, err
	}
	return k, writeKernel(dir, k)
}

func unpack(ctx context.Context, dir string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := runQuietly(exec.CommandContext(ctx, "dpkg", "-x", deb, dir)); err != nil {
			return err
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}

// linkModules links the kernel's modules to the directory of modprobe -d, and indexes them.
func linkModules(ctx context.Context, dir string, k *Kernel) error {
	found, err := filepath.Glob(filepath.Join(dir, "usr/lib/uml/modules/*"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("the package holds modules of %d kernels, not of one", len(found))
	}
	k.Version = filepath.Base(found[0])
	lib := filepath.Join(k.ModuleRoot, "lib/modules")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return err
	}
	if err := os.Rename(found[0], filepath.Join(lib, k.Version)); err != nil {
		return err
	}
	return runQuietly(exec.CommandContext(ctx, findTool("depmod"), "-b", k.ModuleRoot, k.Version))
}

// useOwnLibc makes the program use the libraries that were unpacked with it. Missing libraries come
// from the system. The program itself must name its interpreter: a kernel that is started through
// ld.so does not boot.
func useOwnLibc(ctx context.Context, dir, program string) error {
	libc, err := filepath.Glob(filepath.Join(dir, "usr/lib/*/libc.so.6"))
	if err != nil || len(libc) != 1 {
		return fmt.Errorf("no libc.so.6 in the libc6 package")
	}
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	interpreter := filepath.Join(dir, "usr", interpreterOf(f))
	if _, err := os.Stat(interpreter); err != nil {
		return fmt.Errorf("no dynamic loader in the libc6 package: %w", err)
	}
	return runQuietly(exec.CommandContext(ctx, findTool("patchelf"),
		"--set-interpreter", interpreter, "--force-rpath", "--set-rpath", filepath.Dir(libc[0]), program))
}

func interpreterOf(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if n, err := p.ReadAt(name, 0); err == nil && n > 1 {
				return string(name[:n-1]) // without the final NUL
			}
		}
	}
	return ""
}

//go:embed shim/ptrace_shim.c
var shimSource []byte

func buildShim(ctx context.Context, dir string) (string, error) {
	source, library := filepath.Join(dir, "ptrace_shim.c"), filepath.Join(dir, "ptrace_shim.so")
	if err := os.WriteFile(source, shimSource, 0o644); err != nil {
		return "", err
	}
	return library, runQuietly(exec.CommandContext(ctx, findTool("gcc"), "-O2", "-Wall", "-shared", "-fPIC", "-o", library, source))
}
