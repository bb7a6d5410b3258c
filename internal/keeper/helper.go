package keeper

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
)

// runHelper is called by mount(8) as
//
//	mount.nineply SOURCE TARGET [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTION,...]
//
// SOURCE is the server's address. It becomes a call of the mount command that
// holds the mount in the background.
func runHelper(ctx context.Context, args []string, env *Env) error {
	translated, err := translateHelper(args)
	if err != nil {
		return err
	}
	return runMount(ctx, translated, env)
}

// translateHelper gives the mount command's arguments.
func translateHelper(args []string) ([]string, error) {
	var operands []string
	options := ""
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-o" || a == "-t" || a == "-N":
			if i++; i == len(args) {
				return nil, fserr.Newf(fserr.Invalid, "mount helper", a, "it wants a value")
			}
			if a == "-o" {
				options += "," + args[i]
			}
		case strings.HasPrefix(a, "-"): // -s -f -n -v mean nothing here
		default:
			operands = append(operands, a)
		}
	}
	if len(operands) != 2 {
		return nil, fserr.Newf(fserr.Invalid, "mount helper", "", "want a source and a target, got %q", operands)
	}
	out, aname, err := translateOptions(options)
	if err != nil {
		return nil, err
	}
	if aname == "" {
		return nil, fserr.Newf(fserr.Invalid, "mount helper", operands[0], "option aname=NAME is missing")
	}
	target, err := filepath.Abs(operands[1])
	if err != nil {
		return nil, fmt.Errorf("mount point %q: %w", operands[1], err)
	}
	return append(out, "-daemon", "-connect", operands[0], "--", aname, target), nil
}

// translateOptions turns mount options into flags. Options that mount(8),
// fstab and systemd use among themselves are passed over.
func translateOptions(options string) (out []string, aname string, err error) {
	for _, o := range strings.Split(options, ",") {
		key, val, _ := strings.Cut(o, "=")
		switch key {
		case "aname":
			aname = val
		case "mode", "wait", "patience", "readahead":
			out = append(out, "-"+key+"="+val)
		case "nosuid", "nodev", "direct", "debug":
			out = append(out, "-"+key)
		case "rw":
			return nil, "", fserr.Newf(fserr.Invalid, "mount option", o, "trees are read-only")
		case "", "ro", "suid", "dev", "exec", "defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "async", "relatime", "noatime", "comment":
		default:
			if !strings.HasPrefix(key, "x-") {
				return nil, "", fserr.Newf(fserr.Invalid, "mount option", o, "it is not known")
			}
		}
	}
	return out, aname, nil
}
