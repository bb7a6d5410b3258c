package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// HostAddress is where a guest finds [Guest.Services].
const HostAddress = bootspec.HostAddress

// ForwardAddress is where a QEMU guest finds [Guest.Forwards].
const ForwardAddress = bootspec.ForwardAddress

// SignalCommand is the program in every guest that sends its arguments to
// [Guest.OnSignal] and prints the answer.
const SignalCommand = bootspec.RunDir + "/signal"

// Guest describes one boot. Only Script is required.
type Guest struct {
	// Root is the host directory used as the guest's root file system. The
	// guest can write everywhere, but its writes stay in the guest's memory.
	// Empty means the host's own root.
	Root string
	// Script is run by /bin/sh of the root; its standard output and error and
	// its exit status are the Result.
	Script string
	// Files maps paths in the guest to host files copied there, with their
	// permission bits. They are held in guest memory.
	Files map[string]string
	// Shares maps directories of the guest to directories of the host mounted
	// there, writable.
	Shares map[string]string
	// Services maps ports at HostAddress to host sockets, "tcp:ADDRESS" or
	// "unix:PATH", to which connections are forwarded.
	Services map[int]string
	// OnSignal answers SignalCommand. It runs on its own goroutine, one call
	// at a time for each command; a newline in the answer ends it.
	OnSignal func(words string) string
	// Modules are kernel modules to load besides the default ones.
	Modules []string
	// Env is added to the script's environment, "NAME=value".
	Env []string
	// MemoryMiB is the guest's memory, 768 if 0.
	MemoryMiB int
	// Forwards maps ports at ForwardAddress to unix sockets that QEMU
	// itself connects to, when it starts: one connection for each port, with
	// nothing between the guest's network and the socket. UML has none.
	Forwards map[int]string
	// CPUs is the number of virtual CPUs of QEMU, 2 if 0. UML has one.
	CPUs int
	// Timeout bounds the whole run, 3 minutes if 0.
	Timeout time.Duration
}

// Result is what a guest did.
type Result struct {
	Output  []byte        // standard output and error of the script
	Status  int           // its exit status; -1 if the guest died before that
	Console []byte        // what the kernel and the first process printed
	Elapsed time.Duration // from the start of the guest to its end
}

// errGuest marks a run whose guest never reported an exit status.
var errGuest = errors.New("guest ended without a report")

// machine is what differs between the ways to run a guest.
type machine struct {
	kernelModules string   // module tree of the kernel, with modules.dep
	modules       []string // loaded always, by name
	iface         string   // the network interface inside the guest
	port          string   // virtio-serial report port, or "" for a directory
	mountOf       func(tag int, hostDir string) bootspec.Mount
	command       func(r *run) ([]string, error)
}

// run is one guest being prepared and run.
type run struct {
	Guest
	machine
	dir    string // private directory of this run
	initrd string
	report string   // file that receives the report
	dirs   []string // host directories to export, index = tag
	net    *network
}

// start prepares the run's directory, boots the guest and collects the result.
func start(ctx context.Context, dir string, g Guest, m machine) (*Result, error) {
	g = g.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	r := &run{Guest: g, machine: m, dir: dir}
	init, err := buildInit(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	if err := r.prepare(init); err != nil {
		return nil, err
	}
	r.net, err = newNetwork(ctx, g.Services, g.OnSignal)
	if err != nil {
		return nil, err
	}
	result, err := r.boot(ctx)
	return result, errors.Join(err, r.net.close())
}

func (g Guest) withDefaults() Guest {
	if g.Root == "" {
		g.Root = "/"
	}
	if g.MemoryMiB == 0 {
		g.MemoryMiB = 768
	}
	if g.CPUs == 0 {
		g.CPUs = 2
	}
	if g.Timeout == 0 {
		g.Timeout = 3 * time.Minute
	}
	return g
}

// share exports a host directory and returns how the guest mounts it.
func (r *run) share(hostDir string) bootspec.Mount {
	r.dirs = append(r.dirs, hostDir)
	return r.mountOf(len(r.dirs)-1, hostDir)
}

// prepare writes the initramfs: init, modules, files and the boot spec.
func (r *run) prepare(init string) error {
	reports := filepath.Join(r.dir, "report")
	if err := os.Mkdir(reports, 0o755); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	r.report = filepath.Join(reports, "report")
	spec := bootspec.Spec{
		Interface: r.iface,
		Port:      r.port,
		Argv:      []string{"/bin/sh", bootspec.RunDir + "/script"},
		Env: append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/root", "TERM=dumb", "LANG=C.UTF-8", "NINEPLY_HOST=" + HostAddress,
		}, r.Env...),
		Dir: "/",
	}
	modules, err := resolveModules(r.kernelModules, append(slices.Clone(r.modules), r.Modules...))
	if err != nil {
		return err
	}
	spec.Root = r.share(r.Root)
	if r.port == "" {
		spec.Report = r.share(reports)
	}
	for _, target := range sortedKeys(r.Shares) {
		m := r.share(r.Shares[target])
		m.Target = target
		spec.Shares = append(spec.Shares, m)
	}
	r.initrd = filepath.Join(r.dir, "initrd")
	return r.writeInitrd(init, modules, &spec)
}

func (r *run) writeInitrd(init string, modules []string, spec *bootspec.Spec) (err error) {
	out, err := os.Create(r.initrd)
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := newCPIO(out)
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		archive.dir(dir)
	}
	archive.console()
	archive.hostFile("/init", init, 0o755)
	for _, module := range modules {
		name := filepath.Base(module)
		spec.Modules = append(spec.Modules, name)
		archive.hostFile(filepath.Join(bootspec.ModuleDir, name), module, 0o644)
	}
	archive.bytes(filepath.Join(bootspec.FileDir, "script"), []byte(r.Script), 0o755)
	spec.Files = append(spec.Files, bootspec.File{Name: "script", Path: bootspec.RunDir + "/script", Mode: 0o755})
	for i, path := range sortedKeys(r.Files) {
		host := r.Files[path]
		info, err := os.Stat(host)
		if err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
		name := fmt.Sprintf("file%d", i)
		archive.hostFile(filepath.Join(bootspec.FileDir, name), host, 0o644)
		spec.Files = append(spec.Files, bootspec.File{Name: name, Path: path, Mode: uint32(info.Mode().Perm())})
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("boot spec: %w", err)
	}
	archive.bytes(bootspec.SpecPath, text, 0o644)
	return archive.finish()
}

// boot runs the guest to its end and reads its report.
func (r *run) boot(ctx context.Context) (*Result, error) {
	argv, err := r.command(r)
	if err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(r.dir, "console"))
	if err != nil {
		return nil, fmt.Errorf("guest console: %w", err)
	}
	began := time.Now()
	runErr := r.net.run(ctx, argv, console)
	elapsed := time.Since(began)
	if err := console.Close(); err != nil {
		return nil, fmt.Errorf("guest console: %w", err)
	}
	result := &Result{Status: -1, Elapsed: elapsed}
	result.Console, err = os.ReadFile(console.Name())
	if err != nil {
		return nil, fmt.Errorf("guest console: %w", err)
	}
	report, err := os.ReadFile(r.report)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("guest report: %w", err)
	}
	var splitErr error
	result.Output, result.Status, splitErr = bootspec.SplitReport(report)
	if splitErr == nil {
		return result, nil
	}
	return result, errors.Join(errGuest, splitErr, runErr, context.Cause(ctx))
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
