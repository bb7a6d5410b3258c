package p9test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nineply/nineply/layerindex"
)

// ReferenceFiles lists the tree that the conformance suite expects behind the
// attach name "".
func ReferenceFiles() []File {
	const (
		dir, reg, lnk = layerindex.ModeDir | 0o755, layerindex.ModeReg | 0o644, layerindex.ModeSymlink | 0o777
		day           = 86400
	)
	files := []File{
		{Path: "/", Mode: dir, Mtime: day},
		{Path: "/bin", Mode: dir, Mtime: 2 * day},
		{Path: "/bin/sh", Mode: layerindex.ModeReg | 0o755, Mtime: 3 * day, Data: "#!shell\n"},
		{Path: "/bin/su", Mode: layerindex.ModeReg | 0o4755, Data: "suid\n", Xattrs: []string{"security.capability", "\x01\x00\x00\x02"}},
		{Path: "/etc", Mode: layerindex.ModeDir | 0o1777, UID: 7, GID: 8},
		{Path: "/etc/passwd", Mode: reg, UID: 1000, GID: 100, Mtime: -1, Data: "root:x:0:0:root:/root:/bin/sh\n"},
		{Path: "/etc/empty", Mode: reg},
		{Path: "/etc/rc", Mode: lnk, Data: "../bin/sh"},
		{Path: "/etc/shadow", LinkTo: "/etc/passwd"},
		{Path: "/dev", Mode: dir},
		{Path: "/dev/null", Mode: layerindex.ModeChar | 0o666, Rdev: 1<<8 | 3},
		{Path: "/dev/sda", Mode: layerindex.ModeBlock | 0o660, Rdev: 8 << 8},
		{Path: "/dev/pipe", Mode: layerindex.ModeFifo | 0o600},
		{Path: "/big", Mode: reg, Data: pattern(300_000)},
		{Path: "/attrs", Mode: reg, Data: "x", Xattrs: []string{"user.a", "first", "user.empty", "", "user.long", strings.Repeat("long ", 2000)}},
		{Path: "/remote", Mode: reg, Data: pattern(5000), Remote: true},
		{Path: "/empty", Mode: dir},
		{Path: "/many", Mode: dir},
	}
	for i := range 60 {
		files = append(files, File{Path: fmt.Sprintf("/many/%03d%s", i, strings.Repeat("n", i)), Mode: reg})
	}
	return append(files,
		File{Path: "/many/" + strings.Repeat("m", 255), Mode: reg, Data: "longest name\n"},
		File{Path: "/many/\xff\xfe not utf-8 \n", Mode: reg},
		File{Path: "/a", Mode: dir}, File{Path: "/a/b", Mode: dir}, File{Path: "/a/b/c", Mode: dir},
		File{Path: "/a/b/c/d", Mode: dir}, File{Path: "/a/b/c/d/file", Mode: reg, Data: "deep\n"},
	)
}

// pattern gives n bytes that differ from place to place.
func pattern(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return string(b)
}

// Reference makes the tree of ReferenceFiles.
func Reference(t testing.TB) *Tree {
	t.Helper()
	tree, err := NewTree(ReferenceFiles())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
