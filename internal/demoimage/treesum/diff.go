package treesum

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Compare chooses what [Diff] overlooks.
type Compare struct {
	// IgnoreXattr overlooks extended attributes with these name prefixes, such
	// as "system." or "trusted.overlay.".
	IgnoreXattr []string
	// IgnoreXattrs overlooks all extended attributes.
	IgnoreXattrs bool
	// IgnoreDirLinks overlooks the link counts of directories, which are not
	// the same on all file systems.
	IgnoreDirLinks bool
	// IgnoreRoot overlooks the root directory itself, which is often made by
	// hand.
	IgnoreRoot bool
	// IgnoreNsec overlooks fractions of seconds.
	IgnoreNsec bool
}

// Diff lists the differences between two sorted listings, one line each: "-"
// for what only want has, "+" for what only got has, both for a change.
func (c Compare) Diff(want, got []Node) []string {
	var lines []string
	for len(want) > 0 || len(got) > 0 {
		order := -1 // which listing comes next: want's, got's, or both
		if len(want) == 0 {
			order = 1
		} else if len(got) > 0 {
			order = strings.Compare(want[0].Path, got[0].Path)
		}
		var a, b string
		if order <= 0 {
			a, want = c.line(&want[0]), want[1:]
		}
		if order >= 0 {
			b, got = c.line(&got[0]), got[1:]
		}
		if a == b {
			continue
		}
		if a != "" {
			lines = append(lines, "-"+a)
		}
		if b != "" {
			lines = append(lines, "+"+b)
		}
	}
	return lines
}

// line is what counts of a node, "" if nothing does.
func (c Compare) line(n *Node) string {
	if c.IgnoreRoot && n.Path == "." {
		return ""
	}
	shown := *n
	if c.IgnoreDirLinks && n.Mode&unix.S_IFMT == unix.S_IFDIR {
		shown.NLink = 0
	}
	if c.IgnoreNsec {
		shown.Nsec = 0
	}
	shown.Xattrs = maps.Clone(n.Xattrs)
	maps.DeleteFunc(shown.Xattrs, func(name, _ string) bool {
		return c.IgnoreXattrs || slices.ContainsFunc(c.IgnoreXattr, func(prefix string) bool {
			return strings.HasPrefix(name, prefix)
		})
	})
	return shown.String()
}

// Summary is one line about a listing: how many of what, and how many bytes.
func Summary(nodes []Node) string {
	var dirs, files, links, other int
	var size int64
	for i := range nodes {
		switch nodes[i].Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs++
		case unix.S_IFREG:
			files++
			size += nodes[i].Size
		case unix.S_IFLNK:
			links++
		default:
			other++
		}
	}
	return fmt.Sprintf("%d directories, %d files, %d symlinks, %d others, %d bytes", dirs, files, links, other, size)
}
