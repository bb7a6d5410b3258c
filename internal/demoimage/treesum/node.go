package treesum

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Node is what a tree shows of one path.
type Node struct {
	Path   string // relative, slash-separated, "." for the root
	Mode   uint32 // type and permission bits as in st_mode
	UID    uint32
	GID    uint32
	NLink  uint64
	Size   int64 // 0 for directories, whose size means nothing
	Sec    int64 // modification time
	Nsec   int64
	Major  uint32 // of character and block devices
	Minor  uint32
	Sum    string            // hex sha256 of a regular file
	Target string            // of a symlink
	Xattrs map[string]string // raw values
}

// String is the node as one line of ASCII.
func (n *Node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %o %d %d %d %d %d.%d %d:%d %s %s", strconv.QuoteToASCII(n.Path), n.Mode, n.UID, n.GID, n.NLink,
		n.Size, n.Sec, n.Nsec, n.Major, n.Minor, orDash(n.Sum), strconv.QuoteToASCII(n.Target))
	for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
		fmt.Fprintf(&b, " %s=%s", strconv.QuoteToASCII(name), hex.EncodeToString([]byte(n.Xattrs[name])))
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Write writes the nodes as text, one line each.
func Write(w io.Writer, nodes []Node) error {
	out := bufio.NewWriter(w)
	for i := range nodes {
		if _, err := fmt.Fprintln(out, nodes[i].String()); err != nil {
			return fmt.Errorf("write tree listing: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write tree listing: %w", err)
	}
	return nil
}

// maxLine bounds a line of a listing: a path, a symlink target and all
// extended attributes of one node, quoted.
const maxLine = 1 << 20

// Read reads what Write wrote.
func Read(r io.Reader) ([]Node, error) {
	var nodes []Node
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		node, err := parse(scanner.Text())
		if err != nil {
			return nil, fmt.Errorf("tree listing line %d: %w", len(nodes)+1, err)
		}
		nodes = append(nodes, node)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read tree listing: %w", err)
	}
	return nodes, nil
}

func parse(line string) (Node, error) {
	var n Node
	var err error
	rest := line
	if n.Path, rest, err = cutQuoted(rest); err != nil {
		return n, fmt.Errorf("path: %w", err)
	}
	numbers, rest, err := cutFields(rest, 8)
	if err != nil {
		return n, err
	}
	_, err = fmt.Sscanf(numbers, "%o %d %d %d %d %d.%d %d:%d %s", &n.Mode, &n.UID, &n.GID, &n.NLink,
		&n.Size, &n.Sec, &n.Nsec, &n.Major, &n.Minor, &n.Sum)
	if err != nil {
		return n, fmt.Errorf("attributes: %w", err)
	}
	if n.Sum == "-" {
		n.Sum = ""
	} else if sum, err := hex.DecodeString(n.Sum); err != nil || len(sum) != sha256.Size {
		return n, fmt.Errorf("%q is not a sha256 in hex", n.Sum)
	}
	if n.Target, rest, err = cutQuoted(rest); err != nil {
		return n, fmt.Errorf("symlink target: %w", err)
	}
	for rest != "" {
		var name, value string
		if name, rest, err = cutQuoted(rest); err != nil {
			return n, fmt.Errorf("extended attribute: %w", err)
		}
		if !strings.HasPrefix(rest, "=") {
			return n, fmt.Errorf("extended attribute %q has no value", name)
		}
		value, rest, _ = strings.Cut(rest[1:], " ")
		raw, err := hex.DecodeString(value)
		if err != nil {
			return n, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		if n.Xattrs == nil {
			n.Xattrs = map[string]string{}
		}
		n.Xattrs[name] = string(raw)
	}
	return n, nil
}

func cutQuoted(s string) (value, rest string, err error) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", s, err
	}
	value, err = strconv.Unquote(quoted)
	return value, strings.TrimPrefix(s[len(quoted):], " "), err
}

// cutFields splits off the first n space-separated fields.
func cutFields(s string, n int) (fields, rest string, err error) {
	at := 0
	for range n {
		next := strings.IndexByte(s[at:], ' ')
		if next < 0 {
			return "", "", fmt.Errorf("line ends early")
		}
		at += next + 1
	}
	return s[:at-1], s[at:], nil
}
