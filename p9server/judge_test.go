package p9server_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// judge attaches with the client of another implementation.
func judge(t *testing.T, s *served, aname string) (root p9.File) {
	t.Helper()
	client, err := p9.NewClient(s.dial())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if v := client.Version(); v != 0 {
		t.Fatalf("agreed on extension %d of 9P2000.L", v)
	}
	if root, err = client.Attach(aname); err != nil {
		t.Fatal(err)
	}
	return root
}

func walkTo(t *testing.T, root p9.File, path string) p9.File {
	t.Helper()
	var names []string
	if path != "/" {
		names = strings.Split(strings.Trim(path, "/"), "/")
	}
	qids, f, err := root.Walk(names)
	if err != nil {
		t.Fatalf("walking to %s: %v", path, err)
	}
	if len(qids) != len(names) {
		t.Fatalf("walking to %s: %d qids", path, len(qids))
	}
	return f
}

// seen is what a client finds out about one file.
type seen struct {
	Mode           uint32
	UID, GID, Rdev uint64
	Mtime          int64
	Content        string // of a file; target of a link; names and types of a directory
}

func TestOtherClientSeesTheTree(t *testing.T) {
	root := judge(t, serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{}), "")
	want := map[string]seen{}
	got := map[string]seen{}
	for _, f := range p9test.ReferenceFiles() {
		if f.LinkTo != "" || f.Remote {
			continue
		}
		w := seen{f.Mode, uint64(f.UID), uint64(f.GID), f.Rdev, f.Mtime, f.Data}
		if f.Mode&layerindex.ModeTypeMask == layerindex.ModeDir {
			w.Content = listing(f.Path)
		}
		want[f.Path] = w
		got[f.Path] = look(t, root, f.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree differs (-want +got):\n%s", diff)
	}
}

// listing gives what readdir must give for a directory of the reference tree.
func listing(dir string) string {
	lines := []string{".", ".."}
	sorted := map[string]bool{}
	types := map[string]uint32{}
	for _, f := range p9test.ReferenceFiles() {
		types[f.Path] = f.Mode >> 12
		if f.LinkTo != "" {
			types[f.Path] = types[f.LinkTo]
		}
		if name, ok := strings.CutPrefix(f.Path, strings.TrimSuffix(dir, "/")+"/"); ok && name != "" && !strings.Contains(name, "/") {
			sorted[fmt.Sprintf("%q %d", name, types[f.Path])] = true
		}
	}
	return fmt.Sprint(lines, sorted)
}

func look(t *testing.T, root p9.File, path string) seen {
	t.Helper()
	f := walkTo(t, root, path)
	defer func() {
		if err := f.Close(); err != nil {
			t.Errorf("clunking %s: %v", path, err)
		}
	}()
	_, valid, a, err := f.GetAttr(p9.AttrMaskAll)
	if err != nil || !valid.Mode || !valid.Size || !valid.MTime || valid.BTime {
		t.Fatalf("attributes of %s: %v, %v", path, valid, err)
	}
	s := seen{uint32(a.Mode), uint64(a.UID), uint64(a.GID), uint64(a.RDev), int64(a.MTimeSeconds), ""}
	switch s.Mode & layerindex.ModeTypeMask {
	case layerindex.ModeSymlink:
		s.Content, err = f.Readlink()
	case layerindex.ModeDir:
		s.Content, err = readdir(f)
	case layerindex.ModeReg:
		s.Content, err = contentOf(f)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return s
}

func readdir(f p9.File) (string, error) {
	if _, _, err := f.Open(p9.ReadOnly); err != nil {
		return "", err
	}
	var dots []string
	names := map[string]bool{}
	for offset := uint64(0); ; {
		entries, err := f.Readdir(offset, 600)
		if err != nil || len(entries) == 0 {
			return fmt.Sprint(dots, names), err
		}
		for _, e := range entries {
			offset = e.Offset
			if e.Name == "." || e.Name == ".." {
				dots = append(dots, e.Name)
				continue
			}
			names[fmt.Sprintf("%q %d", e.Name, e.Type)] = true
		}
	}
}

func contentOf(f p9.File) (string, error) {
	if _, iounit, err := f.Open(p9.ReadOnly); err != nil || iounit != 0 {
		return "", fmt.Errorf("open: unit %d, %w", iounit, err)
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, io.NewSectionReader(f, 0, 1<<40))
	return b.String(), err
}

func TestOtherClientSeesErrors(t *testing.T) {
	root := judge(t, serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{}), "")
	passwd, link := walkTo(t, root, "/etc/passwd"), walkTo(t, root, "/etc/rc")
	walk := func(f p9.File, names ...string) error { _, _, err := f.Walk(names); return err }
	open := func(f p9.File, flags p9.OpenFlags) error { _, _, err := f.Open(flags); return err }
	_, mkdir := root.Mkdir("x", 0o755, 0, 0)
	_, _, _, create := root.Create("x", p9.ReadWrite, 0o644, 0, 0)
	_, write := passwd.WriteAt([]byte("x"), 0)
	_, readlink := passwd.Readlink()
	_, notOpen := passwd.ReadAt(make([]byte, 1), 0)
	tests := []struct {
		name string
		got  error
		want linux.Errno
	}{
		{"missing", walk(root, "missing"), linux.ENOENT},
		{"through a file", walk(passwd, "x"), linux.ENOTDIR},
		{"open a link", open(link, p9.ReadOnly), linux.ELOOP},
		{"open for writing", open(passwd, p9.ReadWrite), linux.EROFS},
		{"mkdir", mkdir, linux.EROFS},
		{"create", create, linux.EROFS},
		{"write", write, linux.EROFS},
		{"unlink", root.UnlinkAt("etc", 0), linux.EROFS},
		{"rename", root.RenameAt("etc", root, "x"), linux.EROFS},
		{"setattr", root.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{}), linux.EROFS},
		{"readlink of a file", readlink, linux.EINVAL},
		{"read before open", notOpen, linux.EBADF},
	}
	for _, tt := range tests {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	if fs, err := root.StatFS(); err != nil || fs.Type != 0x01021997 || fs.NameLength != 255 {
		t.Errorf("StatFS = %+v, %v", fs, err)
	}
	if err := passwd.FSync(); err != nil {
		t.Errorf("FSync: %v", err)
	}
}
