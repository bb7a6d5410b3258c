package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// seen is everything a program can find out about a file.
type seen struct {
	Mode, UID, GID        uint32
	Nlink, Ino, Rdev      uint64
	Size, Mtime, MtimeNs  int64
	Target, Content, Attr string
	Names                 []string
}

func look(t *testing.T, path string, root bool) seen {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	s := seen{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: st.Nlink, Ino: st.Ino, Rdev: st.Rdev,
		Size: st.Size, Mtime: st.Mtim.Sec, MtimeNs: st.Mtim.Nsec,
	}
	if root {
		s.Ino = 0
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(path)
		must(t, err)
		s.Content = string(b)
	case unix.S_IFLNK:
		s.Target, err = os.Readlink(path)
		must(t, err)
	case unix.S_IFDIR:
		ents, err := os.ReadDir(path)
		must(t, err)
		for _, e := range ents {
			s.Names = append(s.Names, e.Name()+" "+e.Type().String())
		}
	}
	s.Attr = xattrsOf(t, path)
	return s
}

func xattrsOf(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	var out []string
	for _, name := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		val := make([]byte, 1024)
		m, err := unix.Lgetxattr(path, name, val)
		must(t, err)
		out = append(out, name+"="+string(val[:m]))
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

// snapshot looks at every file under dir.
func snapshot(t *testing.T, dir string) map[string]seen {
	t.Helper()
	all := make(map[string]seen)
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = look(t, path, path == dir)
		return err
	}))
	return all
}

func TestWholeTree(t *testing.T) {
	for name, cfg := range map[string]p9fake.Config{
		"plain":        {},
		"root 1":       {RootPath: 1},
		"out of order": {Unordered: true},
		"small msize":  {MSize: 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			f := mountTree(t, cfg, mount.Options{MaxFids: 20})
			want := snapshot(t, f.src)
			for range 2 { // the second time from the caches
				if diff := cmp.Diff(want, snapshot(t, f.dir)); diff != "" {
					t.Fatalf("the mount differs from the source:\n%.3000s", diff)
				}
			}
			st := f.Status()
			if st.Fids > 20 || st.State != mount.Connected || st.Nodes < len(want)/2 {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// What was seen once needs neither the server nor even the keeper again.
func TestWarmNeedsNoServer(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	diff := ""
	// More than once: whatever else runs on this machine may make the kernel
	// drop its caches.
	for range 20 {
		snapshot(t, f.dir)
		must(t, readEverything(f.dir))
		before := f.Status()
		must(t, readEverything(f.dir))
		if diff = cmp.Diff(before.Kernel, f.Status().Kernel); diff == "" {
			return
		}
	}
	t.Errorf("a warm walk asked the keeper:\n%s", diff)
}

// readEverything reads all files and links below dir, and looks for one that
// is absent.
func readEverything(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("absent file: %w", err)
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.Type().IsRegular():
			_, err = os.ReadFile(path)
		case d.Type()&fs.ModeSymlink != 0:
			_, err = os.Readlink(path)
		}
		return err
	})
}

// A directory in which names are missed is listed once; after that misses cost
// the server nothing, and what is there is still found.
func TestAbsentNames(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	missing := func(dir string, n int) {
		for i := range n {
			if err := unix.Access(filepath.Join(f.dir, dir, "none-"+itoa(uint64(i))), unix.F_OK); !errors.Is(err, unix.ENOENT) {
				t.Fatalf("absent name: %v", err)
			}
		}
	}
	missing("many", 2)
	walks := f.srv.ByType[110].Load()
	missing("many", 300)
	if n := f.srv.ByType[110].Load(); n != walks {
		t.Errorf("300 further misses cost %d walks", n-walks)
	}
	missing("usr", 10)
	for i := range 700 {
		must(t, unix.Access(filepath.Join(f.dir, "many", itoa(uint64(i))+"-some-file-name"), unix.F_OK))
	}
	evict(t, f.dir) // the nodes go, and come again
	missing("many", 5)
	must(t, unix.Access(filepath.Join(f.dir, "many/5-some-file-name"), unix.F_OK))
}

func TestErrnos(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	at := func(name string) string { return filepath.Join(f.dir, name) }
	buf := make([]byte, 100)
	for what, tt := range map[string]struct{ got, want error }{
		"absent":          {unix.Access(at("absent"), unix.F_OK), unix.ENOENT},
		"through a file":  {unix.Access(at("big/x"), unix.F_OK), unix.ENOTDIR},
		"long name":       {unix.Access(at(strings.Repeat("x", 256)), unix.F_OK), unix.ENAMETOOLONG},
		"write":           {os.WriteFile(at("usr/small"), nil, 0o644), unix.EROFS},
		"create":          {os.WriteFile(at("new"), nil, 0o644), unix.EROFS},
		"mkdir":           {os.Mkdir(at("newdir"), 0o755), unix.EROFS},
		"remove":          {os.Remove(at("big")), unix.EROFS},
		"chmod":           {os.Chmod(at("big"), 0o600), unix.EROFS},
		"setxattr":        {unix.Setxattr(at("big"), "user.x", buf, 0), unix.EROFS},
		"no xattr":        {second(unix.Getxattr(at("big"), "trusted.overlay.opaque", buf)), unix.ENODATA},
		"small xattr buf": {second(unix.Getxattr(at("usr/small"), "security.capability", buf[:3])), unix.ERANGE},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", what, tt.got, tt.want)
		}
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(f.dir, &st))
	if st.Blocks != 1000 || st.Bsize != 4096 || st.Namelen != 255 || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("statfs %+v", st)
	}
}

func second(_ int, err error) error { return err }

// Programs run from the mount; set-user-ID files, file capabilities and devices
// keep their meaning; permissions are the kernel's business.
func TestExecAndPrivileges(t *testing.T) {
	src := sourceTree(t)
	for _, prog := range []string{"id", "cat"} {
		path, err := exec.LookPath(prog)
		if err != nil {
			t.Skip(err)
		}
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(src, prog), b, 0o755))
	}
	must(t, unix.Chmod(filepath.Join(src, "id"), 0o4755))
	f := mountTree(t, p9fake.Config{Dir: src}, mount.Options{})
	must(t, os.Chmod(filepath.Dir(f.dir), 0o755))
	user := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	run := func(args ...string) (string, error) {
		// By way of a shell: a Go program that executes a file of a mount it
		// serves itself stands still while the kernel reads that file.
		cmd := exec.Command("/bin/sh", append([]string{"-c", `exec "$0" "$@"`, filepath.Join(f.dir, args[0])}, args[1:]...)...)
		cmd.SysProcAttr = user
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("id", "-u"); err != nil || out != "0\n" {
		t.Errorf("set-user-ID id: %q, %v", out, err)
	}
	if out, err := run("cat", filepath.Join(f.dir, "null")); err != nil || out != "" {
		t.Errorf("reading the null device: %q, %v", out, err)
	}
	if out, err := run("cat", filepath.Join(f.dir, "private/key")); err == nil || !strings.Contains(out, "ermission") {
		t.Errorf("reading a private file: %q, %v", out, err)
	}
	if out, err := run("cat", filepath.Join(f.dir, "usr/empty")); err != nil || out != "" {
		t.Errorf("reading a public file: %q, %v", out, err)
	}
}

// A writable overlay on the mount behaves as on any other lower directory.
func TestOverlay(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	up := t.TempDir()
	must(t, unix.Mount("tmpfs", up, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(up, unix.MNT_DETACH)) })
	for _, d := range []string{"u", "w", "m"} {
		must(t, os.Mkdir(filepath.Join(up, d), 0o755))
	}
	merged := filepath.Join(up, "m")
	must(t, unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+f.dir+",upperdir="+up+"/u,workdir="+up+"/w"))
	t.Cleanup(func() { must(t, unix.Unmount(merged, unix.MNT_DETACH)) })

	file, err := os.OpenFile(filepath.Join(merged, "usr/small"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteString("and more\n")
	must(t, errors.Join(err, file.Close()))
	got, err := os.ReadFile(filepath.Join(merged, "usr/small"))
	must(t, err)
	if want := "a small file\nand more\n"; string(got) != want {
		t.Errorf("after copy-up: %q", got)
	}
	must(t, os.Chmod(filepath.Join(merged, "big"), 0o600))
	got, err = os.ReadFile(filepath.Join(merged, "big"))
	if must(t, err); !bytes.Equal(got, pattern(5<<20+77, 1)) {
		t.Error("a file copied up for chmod has other bytes")
	}
	if v := xattrsOf(t, filepath.Join(merged, "usr")); !strings.Contains(v, "trusted.note=on a directory") {
		t.Errorf("attributes of a copied-up directory: %q", v)
	}
	must(t, os.Rename(filepath.Join(merged, "usr/empty"), filepath.Join(merged, "moved")))
	must(t, os.RemoveAll(filepath.Join(merged, "many")))
	if _, err := os.Stat(filepath.Join(merged, "many")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed directory: %v", err)
	}
}
