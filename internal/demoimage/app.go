package demoimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// HelloPath is the program that the image runs.
const HelloPath = "/app/hello.py"

// helloSource is small but imports enough of the library to be a real start.
const helloSource = `import json
import pathlib
import platform

release = dict(
    line.split("=", 1)
    for line in pathlib.Path("/etc/os-release").read_text().splitlines()
    if "=" in line
)
words = json.loads('{"greeting": "hello"}')
print(
    words["greeting"], "from python", platform.python_version(),
    "on", release.get("PRETTY_NAME", "Linux").strip('"'),
)
`

// blobSize is the size of the application's incompressible file: it makes the
// image as large as images with real work in them are, and spans many chunks.
const blobSize = 48 << 20

// capReadAny is the value of security.capability (revision 2, effective) that
// grants CAP_DAC_READ_SEARCH: its owner reads files that the mode forbids.
const capReadAny = "\x01\x00\x00\x02\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// tools are programs of the base that the application layer copies to give
// them special rights; nil contents leave them out.
type tools struct{ cat, id []byte }

// file is a regular file of a layer.
func file(name string, perm int64, content []byte) entry {
	return entry{
		header: tar.Header{
			Typeflag: tar.TypeReg, Name: name, Mode: perm, Size: int64(len(content)), ModTime: epoch(), Format: tar.FormatPAX,
		},
		open: memory(content),
	}
}

// other is anything without content: give its type, name, mode and more.
func other(kind byte, name string, perm int64, change func(*tar.Header)) entry {
	e := entry{header: tar.Header{Typeflag: kind, Name: name, Mode: perm, ModTime: epoch(), Format: tar.FormatPAX}}
	if kind == tar.TypeDir {
		e.header.Name += "/"
	}
	if change != nil {
		change(&e.header)
	}
	return e
}

func dir(name string, perm int64) entry { return other(tar.TypeDir, name, perm, nil) }

func link(kind byte, name, target string) entry {
	return other(kind, name, 0o777, func(h *tar.Header) { h.Linkname = target })
}

// lowerEntries are files of the base layer for the application layer to hide,
// replace and change.
func lowerEntries() []entry {
	changed := dir("srv/lower/changed-dir", 0o755)
	changed.setXattr("user.lower", "must not be seen")
	return []entry{
		dir("srv", 0o755), dir("srv/lower", 0o755),
		file("srv/lower/kept", 0o644, []byte("kept\n")),
		file("srv/lower/removed", 0o644, []byte("removed\n")),
		dir("srv/lower/removed-dir", 0o755), file("srv/lower/removed-dir/file", 0o644, []byte("removed\n")),
		dir("srv/lower/removed-dir/sub", 0o755), file("srv/lower/removed-dir/sub/file", 0o644, []byte("removed\n")),
		dir("srv/lower/opaque", 0o755), file("srv/lower/opaque/hidden", 0o644, []byte("hidden\n")),
		dir("srv/lower/opaque/both", 0o755), file("srv/lower/opaque/both/hidden", 0o644, []byte("hidden\n")),
		file("srv/lower/file-to-dir", 0o644, []byte("file\n")),
		dir("srv/lower/dir-to-file", 0o755), file("srv/lower/dir-to-file/hidden", 0o644, []byte("hidden\n")),
		dir("srv/lower/dir-to-link", 0o755), file("srv/lower/dir-to-link/hidden", 0o644, []byte("hidden\n")),
		link(tar.TypeSymlink, "srv/lower/link-to-dir", "kept"),
		file("srv/lower/replaced", 0o644, []byte("old\n")),
		changed, file("srv/lower/changed-dir/kept", 0o644, []byte("kept\n")),
		dir("srv/lower/merged", 0o755), file("srv/lower/merged/from-lower", 0o644, []byte("lower\n")),
		file("srv/lower/back", 0o644, []byte("old\n")),
	}
}

// overEntries hide, replace and change what lowerEntries made.
func overEntries() []entry {
	changed := dir("srv/lower/changed-dir", 0o2750)
	changed.header.Uid, changed.header.Gid = 1000, 1001
	changed.setXattr("user.upper", "seen")
	return []entry{
		dir("srv/lower", 0o755),
		whiteout("srv/lower/removed"), whiteout("srv/lower/removed-dir"),
		dir("srv/lower/opaque", 0o711), whiteout("srv/lower/opaque/.wh..opq"),
		file("srv/lower/opaque/new", 0o644, []byte("new\n")),
		dir("srv/lower/opaque/both", 0o700), file("srv/lower/opaque/both/new", 0o644, []byte("new\n")),
		dir("srv/lower/file-to-dir", 0o755), file("srv/lower/file-to-dir/new", 0o644, []byte("new\n")),
		file("srv/lower/dir-to-file", 0o600, []byte("file now\n")),
		link(tar.TypeSymlink, "srv/lower/dir-to-link", "opaque"),
		dir("srv/lower/link-to-dir", 0o755), file("srv/lower/link-to-dir/new", 0o644, []byte("new\n")),
		file("srv/lower/replaced", 0o640, []byte("new and longer\n")),
		changed,
		dir("srv/lower/merged", 0o755), file("srv/lower/merged/from-upper", 0o644, []byte("upper\n")),
		whiteout("srv/lower/back"), file("srv/lower/back", 0o644, []byte("removed and back\n")),
	}
}

// appEntries are the application: one of every kind of file there is.
func appEntries(t tools, blob int) []entry {
	entries := append(overEntries(), dir("app", 0o755), file("app/hello.py", 0o755, []byte(helloSource)))
	entries = append(entries, contentEntries(blob)...)
	entries = append(entries, nameEntries()...)
	entries = append(entries, inodeEntries()...)
	return append(entries, toolEntries(t)...)
}

// contentEntries differ in size: none, one byte, at and around chunk borders.
func contentEntries(blob int) []entry {
	random := make([]byte, blob)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(random)
	text := bytes.Repeat([]byte("a line of text that compresses well\n"), 200_000)
	return []entry{
		dir("app/data", 0o755),
		file("app/data/empty", 0o644, nil),
		file("app/data/one-byte", 0o644, []byte{'x'}),
		file("app/data/random", 0o644, random),
		file("app/data/text", 0o644, text),
		file("app/data/zeros", 0o644, make([]byte, 3<<20)),
		file("app/data/4mib", 0o644, random[:min(4<<20, blob)]),
		file("app/data/4mib-and-one", 0o644, random[:min(4<<20+1, blob)]),
		file("app/data/64k-less-one", 0o644, random[:64<<10-1]),
	}
}

func nameEntries() []entry {
	entries := []entry{dir("app/names", 0o755)}
	for _, name := range []string{
		"with space", "-dash", "tab\there", "new\nline", `back\slash`, `quote"s'`, "*?[glob]", "ünïcödé-名前-😀",
		"wh.not-a-whiteout", ".hidden", "...",
		strings.Repeat("n", 255),
	} {
		entries = append(entries, file("app/names/"+name, 0o644, []byte(name)))
	}
	return append(entries,
		dir("app/names/many", 0o755),
		file("app/names/many/a", 0o644, nil), file("app/names/many/a.b", 0o644, nil), file("app/names/many/ab", 0o644, nil),
		dir("app/links", 0o755),
		link(tar.TypeSymlink, "app/links/relative", "../hello.py"),
		link(tar.TypeSymlink, "app/links/absolute", HelloPath),
		link(tar.TypeSymlink, "app/links/dangling", "no/such/file"),
		link(tar.TypeSymlink, "app/links/loop", "loop"),
		link(tar.TypeSymlink, "app/links/long", strings.Repeat("../app/", 60)+"hello.py"),
		link(tar.TypeSymlink, "app/links/odd", " sp ace\nand more"),
	)
}

// inodeEntries differ in everything but content: types, owners, modes, times,
// extended attributes, link counts.
func inodeEntries() []entry {
	owned := file("app/inodes/odd-owner", 0o4751, []byte("owner\n"))
	owned.header.Uid, owned.header.Gid = 3_000_000_000, 123_456
	attributes := file("app/inodes/xattrs", 0o644, []byte("xattrs\n"))
	attributes.setXattr("user.text", "value")
	attributes.setXattr("user.binary", "\x00\xff=\n\x00")
	attributes.setXattr("user.long", strings.Repeat("long ", 200))
	attributes.setXattr("trusted.nineply", "only root sees this")
	attributed := dir("app/inodes/xattr-dir", 0o755)
	attributed.setXattr("user.dir", "on a directory")
	old := file("app/inodes/1970", 0o644, nil)
	old.header.ModTime = time.Unix(0, 0)
	late := file("app/inodes/2100", 0o644, nil)
	late.header.ModTime = time.Date(2100, 2, 3, 4, 5, 6, 0, time.UTC)
	device := func(major, minor int64) func(*tar.Header) {
		return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
	}
	return []entry{
		dir("app/inodes", 0o755),
		owned, attributes, attributed, old, late,
		file("app/inodes/no-rights", 0, []byte("root reads this\n")),
		file("app/inodes/hard-a", 0o640, []byte("one file, three names\n")),
		link(tar.TypeLink, "app/inodes/hard-b", "app/inodes/hard-a"),
		link(tar.TypeLink, "app/links/hard-c", "app/inodes/hard-a"),
		other(tar.TypeFifo, "app/inodes/fifo", 0o620, nil),
		other(tar.TypeChar, "app/inodes/null", 0o666, device(1, 3)),
		other(tar.TypeBlock, "app/inodes/loop0", 0o660, device(7, 0)),
		other(tar.TypeChar, "app/inodes/big-numbers", 0o600, device(4095, 1048575)),
		dir("app/inodes/empty-dir", 0o755),
		dir("app/inodes/sticky", 0o1777),
		dir("app/inodes/setgid", 0o2775),
		dir("app/inodes/no-rights-dir", 0),
	}
}

// toolEntries are programs whose effect shows that mode bits and capabilities
// arrived: id as a setuid program prints an effective root, cat with a
// capability reads for anybody what only root may read.
func toolEntries(t tools) []entry {
	entries := []entry{dir("app/bin", 0o755), file("app/secret", 0o600, []byte("only with the capability\n"))}
	if t.id != nil {
		entries = append(entries, file("app/bin/id-setuid", 0o4755, t.id))
	}
	if t.cat != nil {
		reader := file("app/bin/cat-capable", 0o755, t.cat)
		reader.setXattr("security.capability", capReadAny)
		entries = append(entries, reader)
	}
	return entries
}

// readTools reads the programs to copy from a base root.
func readTools(root string) (tools, error) {
	var t tools
	for name, into := range map[string]*[]byte{"cat": &t.cat, "id": &t.id} {
		data, err := os.ReadFile(root + "/usr/bin/" + name)
		if err != nil {
			return t, fmt.Errorf("program of the base: %w", err)
		}
		*into = data
	}
	return t, nil
}
