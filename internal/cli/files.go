package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/keeper"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/spf13/cobra"
)

// attachName turns what a user writes into an attach name: a reference stands
// for the image, and the attach names themselves are understood.
func attachName(arg string) string {
	for _, prefix := range []string{"image/", "chain/", "layer/"} {
		if strings.HasPrefix(arg, prefix) {
			return arg
		}
	}
	return "image/" + arg
}

func (a *app) mountCommand() *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use: "mount IMAGE DIR", Short: "Mount an image on a directory, read-only", Args: nArgs(2, 2),
		Long: `mount makes the files of an image appear in a directory. Nothing is pulled: bytes
are fetched when they are read. No containerd is needed, only a running daemon.

IMAGE is a reference, a manifest digest, an OCI layout (oci:/path:tag), or an
attach name: image/..., chain/<chain ID>, layer/<digest>.`,
		Example: `  nineply mount example.com/python:3.12 /mnt
  nineply umount /mnt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := mountPoint(args[1])
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Mount(cmd.Context(), control.MountRequest{Aname: attachName(args[0]), Target: target, Mode: mode})
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "auto, v9fs or fuse (default: as configured)")
	return cmd
}

func (a *app) umountCommand() *cobra.Command {
	return &cobra.Command{
		Use: "umount DIR", Aliases: []string{"unmount"}, Short: "End a mount", Args: nArgs(1, 1),
		Example: "  nineply umount /mnt",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			err = client.Unmount(cmd.Context(), target)
			if fserr.Is(err, fserr.Unavailable) {
				return a.umountByKeeper(cmd.Context(), target, err)
			}
			return err
		},
	}
}

// umountByKeeper ends a mount without the daemon, which is not needed for it.
func (a *app) umountByKeeper(ctx context.Context, target string, cause error) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	_, socket, err := config.SplitAddress(c.Listen.Keeper)
	if err != nil {
		return err
	}
	k := keeper.NewClient(socket)
	defer k.Close()
	if err := k.Unmount(ctx, target, false); fserr.Is(err, fserr.Unavailable) {
		return cause
	} else if err != nil {
		return err
	}
	return nil
}

// mountPoint checks that a target can be mounted on before anything is fetched.
func mountPoint(dir string) (string, error) {
	target, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(target)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("mount point: %s is not a directory", target)
	}
	return target, nil
}

// tree attaches to an image over 9P, as any other client would.
func (a *app) tree(ctx context.Context, arg string) (*p9client.Client, *p9client.File, error) {
	c, err := a.config()
	if err != nil {
		return nil, nil, err
	}
	client, err := p9client.Dial(ctx, c.Listen.NineP[0], p9client.Options{})
	if err != nil {
		return nil, nil, fserr.Newf(fserr.Unavailable, "", "", "no daemon answers at %s: start it with \"nineply daemon\", or name its directory with --state: %w", c.Listen.NineP[0], err)
	}
	root, err := client.Attach(ctx, attachName(arg))
	if err != nil {
		_ = client.Close() // the attach error is the cause
		if errors.Is(err, syscall.EIO) {
			err = fmt.Errorf("%w (the daemon's log has the cause; \"nineply inspect %s\" asks the registry directly)", err, arg)
		}
		return nil, nil, fmt.Errorf("%s: %w", arg, err)
	}
	return client, root, nil
}

// names splits a path inside an image into the names to walk.
func names(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH...", Short: "Print files of an image", Args: nArgs(2, 1<<10),
		Example: "  nineply cat example.com/python:3.12 /etc/os-release",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			client, root, err := a.tree(ctx, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = client.Close() }() // read side
			for _, p := range args[1:] {
				if err := copyFile(ctx, a.stdout, root, p); err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
			}
			return nil
		},
	}
}

// copyFile prints one file. Symbolic links are followed inside the image.
func copyFile(ctx context.Context, w io.Writer, root *p9client.File, p string) error {
	f, err := resolve(ctx, root, p)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read side
	if isType(f, p9client.QTDir) {
		return syscall.EISDIR
	}
	if err := f.Open(ctx); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := f.ReadAt(ctx, buf, off)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
}

// maxLinks bounds the symbolic links followed for one path, as Linux does.
const maxLinks = 40

// resolve walks p below root, following symbolic links inside the image.
func resolve(ctx context.Context, root *p9client.File, p string) (*p9client.File, error) {
	done, rest := []string{}, names(p)
	for links := 0; ; {
		f, err := root.Walk(ctx, done...)
		if err != nil {
			return nil, err
		}
		if isType(f, p9client.QTSymlink) {
			if links++; links > maxLinks {
				return nil, errors.Join(syscall.ELOOP, f.Close())
			}
			target, err := f.Readlink(ctx)
			_ = f.Close() // not needed any more
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(target, "/") {
				target = path.Join(append(append([]string{"/"}, done[:len(done)-1]...), target)...)
			}
			done, rest = nil, append(names(target), rest...)
			continue
		}
		if len(rest) == 0 {
			return f, nil
		}
		_ = f.Close() // on the way only
		done, rest = append(done[:len(done):len(done)], rest[0]), rest[1:]
	}
}

func (a *app) lsCommand() *cobra.Command {
	var long, asJSON bool
	cmd := &cobra.Command{
		Use: "ls IMAGE [PATH]", Short: "List a directory of an image", Args: nArgs(1, 2),
		Example: `  nineply ls example.com/python:3.12
  nineply ls -l example.com/python:3.12 /usr/bin`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := "/"
			if len(args) > 1 {
				p = args[1]
			}
			client, root, err := a.tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { _ = client.Close() }() // read side
			entries, err := list(cmd.Context(), root, p, long || asJSON)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			return a.printEntries(entries, long, asJSON)
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per entry")
	return cmd
}

// listed is one line of ls.
type listed struct {
	Name   string    `json:"name"`
	Mode   string    `json:"mode"`
	NLink  uint64    `json:"nlink"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   uint64    `json:"size"`
	MTime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
}

// list reads a directory, or describes the one file that p names.
func list(ctx context.Context, root *p9client.File, p string, stat bool) ([]listed, error) {
	f, err := resolve(ctx, root, p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read side
	if !isType(f, p9client.QTDir) {
		e, err := describe(ctx, f, path.Base(p))
		return []listed{e}, err
	}
	if err := f.Open(ctx); err != nil {
		return nil, err
	}
	dirents, err := readDir(ctx, f)
	if err != nil {
		return nil, err
	}
	dir, err := resolve(ctx, root, p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // read side
	var entries []listed
	for _, d := range dirents {
		if d.Name == "." || d.Name == ".." {
			continue
		}
		e := listed{Name: d.Name}
		if stat {
			if e, err = describeChild(ctx, dir, d.Name); err != nil {
				return nil, fmt.Errorf("%s: %w", d.Name, err)
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// readDir reads an open directory to its end.
func readDir(ctx context.Context, f *p9client.File) ([]p9client.Dirent, error) {
	var entries []p9client.Dirent
	buf := make([]byte, 256<<10)
	for offset := uint64(0); ; {
		before := len(entries)
		var err error
		if entries, err = f.ReadDir(ctx, offset, buf, entries); err != nil {
			return nil, err
		}
		if len(entries) == before {
			return entries, nil
		}
		offset = entries[len(entries)-1].Offset
	}
}

func isType(f *p9client.File, bit uint8) bool { return f.QID().Type&bit != 0 }

func describeChild(ctx context.Context, dir *p9client.File, name string) (listed, error) {
	f, err := dir.Walk(ctx, name)
	if err != nil {
		return listed{}, err
	}
	defer func() { _ = f.Close() }() // read side
	return describe(ctx, f, name)
}

func describe(ctx context.Context, f *p9client.File, name string) (listed, error) {
	attr, err := f.Stat(ctx)
	if err != nil {
		return listed{}, err
	}
	e := listed{
		Name: name, Mode: modeText(attr.Mode), NLink: attr.NLink, UID: attr.UID, GID: attr.GID, Size: attr.Size,
		MTime: time.Unix(int64(attr.Mtime.Sec), int64(attr.Mtime.Nsec)).UTC(),
	}
	if attr.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		e.Target, err = f.Readlink(ctx)
	}
	return e, err
}

// modeText writes a Unix mode as ls does.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{
		syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b', syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's',
	}
	text := []byte("-rwxrwxrwx")
	if k, ok := kinds[mode&syscall.S_IFMT]; ok {
		text[0] = k
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[i+1] = '-'
		}
	}
	special := func(bit uint32, at int, with, without byte) {
		if mode&bit == 0 {
			return
		}
		if text[at] == 'x' {
			text[at] = with
		} else {
			text[at] = without
		}
	}
	special(syscall.S_ISUID, 3, 's', 'S')
	special(syscall.S_ISGID, 6, 's', 'S')
	special(syscall.S_ISVTX, 9, 't', 'T')
	return string(text)
}

func (a *app) printEntries(entries []listed, long, asJSON bool) error {
	if asJSON {
		for _, e := range entries {
			if err := a.printJSON(e); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(a.stdout)
	for _, e := range entries {
		if !long {
			t.row(e.Name)
			continue
		}
		name := e.Name
		if e.Target != "" {
			name += " -> " + e.Target
		}
		t.row(e.Mode, fmt.Sprint(e.NLink), fmt.Sprint(e.UID), fmt.Sprint(e.GID), fmt.Sprint(e.Size), e.MTime.Format("2006-01-02 15:04:05"), name)
	}
	return t.flush()
}
