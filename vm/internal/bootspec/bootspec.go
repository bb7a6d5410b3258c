// Package bootspec is what the guest harness tells the first process of a
// guest: which modules to load, what to mount, what to run, where to report.
//
// The host writes a [Spec] as JSON into the initramfs; the guest's init reads
// it. It is shared by those two programs and knows neither of them.
package bootspec

import (
	"bytes"
	"fmt"
	"strconv"
)

// Places inside the initramfs, known to both sides.
const (
	SpecPath       = "/nineply-guest.json" // the Spec, as JSON
	ModuleDir      = "/nineply-modules"    // *.ko files named in Spec.Modules
	FileDir        = "/nineply-files"      // contents of Spec.Files
	RunDir         = "/run/nineply-guest"  // in the booted root: script and signal
	HostAddress    = "10.0.2.2"            // where services of the host answer
	ForwardAddress = "10.0.2.100"          // where QEMU's own forwards answer
	GuestCIDR      = "10.0.2.15/24"        // the guest's own address
	SignalPort     = 9                     // HostAddress port taking signals
)

// Spec is one boot.
type Spec struct {
	Modules   []string // file names in ModuleDir, in loading order
	Interface string   // network interface to configure, "" for none
	Report    Mount    // where the report goes: a directory mount, or
	Port      string   // the name of a virtio-serial port
	Root      Mount    // read-only lower of the root, zero for the initramfs
	Shares    []Mount  // mounted below the root before the script starts
	Files     []File   // copied into the root before the script starts
	Argv      []string // what to run
	Env       []string // its environment
	Dir       string   // its working directory
}

// Mount is one call of mount(2).
type Mount struct {
	Source, Target, Type, Options string
	ReadOnly                      bool
}

// File is a file of FileDir to be put at Path of the root.
type File struct {
	Name string
	Path string
	Mode uint32
}

// The trailer ends a report: a NUL (which no text output has before it by
// accident in this form), a word and the exit status of the command.
const trailer = "\x00nineply-guest-exit:"

// Trailer is the end of a report for a command that ended with status.
func Trailer(status int) []byte {
	return fmt.Appendf(nil, "%s%d\n", trailer, status)
}

// SplitReport parts a report into the output of the command and its exit
// status. A report without a trailer comes from a guest that died.
func SplitReport(report []byte) (output []byte, status int, err error) {
	at := bytes.LastIndex(report, []byte(trailer))
	if at < 0 {
		return report, -1, fmt.Errorf("guest report has no exit status")
	}
	word := bytes.TrimSuffix(report[at+len(trailer):], []byte("\n"))
	status, err = strconv.Atoi(string(word))
	if err != nil {
		return report[:at], -1, fmt.Errorf("guest report ends with a bad exit status: %w", err)
	}
	return report[:at], status, nil
}
