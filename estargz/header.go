package estargz

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	paxXattr  = "SCHILY.xattr."
	paxSparse = "GNU.sparse."
)

// entryTypes are the tar types that a TOC has a word for.
var entryTypes = map[byte]EntryType{ //nolint:gochecknoglobals // a constant table
	tar.TypeDir:     TypeDir,
	tar.TypeReg:     TypeReg,
	tar.TypeSymlink: TypeSymlink,
	tar.TypeLink:    TypeHardlink,
	tar.TypeChar:    TypeChar,
	tar.TypeBlock:   TypeBlock,
	tar.TypeFifo:    TypeFifo,
}

// isSparse knows the forms of GNU tar: a type of its own, or PAX records.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, paxSparse) {
			return true
		}
	}
	return false
}

// plainHeader brings h to the form it is written in: sparse and contiguous files
// become plain ones, for what is written is their whole content.
func plainHeader(h *tar.Header) {
	switch h.Typeflag {
	case tar.TypeGNUSparse, tar.TypeCont:
		h.Typeflag = tar.TypeReg
	case tar.TypeReg:
	default:
		h.Size = 0
	}
	h.Xattrs = nil //nolint:staticcheck // the reader fills it from the PAX records, which are kept
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool { return strings.HasPrefix(k, paxSparse) })
}

// applyRecord applies a record of a global header, if it is of a kind that matters.
func applyRecord(h *tar.Header, key, value string) (applied bool, err error) {
	switch key {
	case "uid":
		h.Uid, err = strconv.Atoi(value)
	case "gid":
		h.Gid, err = strconv.Atoi(value)
	case "uname":
		h.Uname = value
	case "gname":
		h.Gname = value
	case "mtime":
		h.ModTime, err = paxTime(value)
	default:
		if !strings.HasPrefix(key, paxXattr) {
			return false, nil // a comment, or a time that a TOC does not have
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[key] = value
	}
	if err != nil {
		return false, fserr.Newf(fserr.Corrupt, "", "", "global header: %.80q is no %s", value, key)
	}
	h.Format = tar.FormatPAX
	return true, nil
}

// checkGlobal refuses records that would change what a tar reader takes for the
// name or the content of every entry.
func checkGlobal(records map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(records)) {
		if k == "path" || k == "linkpath" || k == "size" || strings.HasPrefix(k, paxSparse) {
			return fserr.Newf(fserr.Unsupported, "", "", "global header sets %s for all entries", k)
		}
	}
	return nil
}

// paxTime reads seconds with an optional fraction.
func paxTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || fraction == "" {
		return time.Unix(sec, 0), err
	}
	nsec, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(nsec)), err
	}
	return time.Unix(sec, int64(nsec)), err
}

// appendHeader adds the tar header blocks of h to p. A header that does not fit
// its own format is written as PAX.
func appendHeader(p []byte, h *tar.Header) ([]byte, error) {
	b := bytes.NewBuffer(p)
	err := tar.NewWriter(b).WriteHeader(h)
	if err != nil {
		pax := *h
		pax.Format = tar.FormatPAX
		b = bytes.NewBuffer(p)
		err = tar.NewWriter(b).WriteHeader(&pax)
	}
	if err != nil {
		return p, fserr.New(fserr.Unsupported, "", "", err)
	}
	return b.Bytes(), nil
}

// appendEntry adds the JSON of e, which is what h says, to p: without what is
// known of content only later, and without the closing brace.
func appendEntry(p []byte, h *tar.Header, e *Entry) []byte {
	p = appendText(append(p, `{"name":`...), e.Name)
	p = appendText(append(p, `,"type":`...), e.Type.String())
	p = appendNumber(p, `,"size":`, e.Size)
	if t := h.ModTime.UTC().Round(time.Second); !h.ModTime.IsZero() && t.Unix() != 0 && t.Year() >= 0 && t.Year() <= 9999 {
		p = append(t.AppendFormat(append(p, `,"modtime":"`...), time.RFC3339), '"')
	}
	if e.LinkName != "" {
		p = appendText(append(p, `,"linkName":`...), e.LinkName)
	}
	p = appendNumber(p, `,"mode":`, int64(e.Mode))
	p = appendNumber(p, `,"uid":`, int64(e.UID))
	p = appendNumber(p, `,"gid":`, int64(e.GID))
	p = appendNumber(p, `,"devMajor":`, int64(e.DevMajor))
	p = appendNumber(p, `,"devMinor":`, int64(e.DevMinor))
	return appendXattrs(p, h.PAXRecords)
}

// appendFullEntry is appendEntry in the dialect of containers/storage, which holds
// entries against the tar header: nothing is left out, rounded or masked.
func appendFullEntry(p []byte, h *tar.Header, e *Entry) []byte {
	p = appendText(append(p, `{"type":`...), e.Type.String())
	p = appendText(append(p, `,"name":`...), h.Name)
	if h.Linkname != "" {
		p = appendText(append(p, `,"linkName":`...), h.Linkname)
	}
	p = appendNumber(p, `,"mode":`, h.Mode)
	p = appendNumber(p, `,"size":`, h.Size)
	p = appendNumber(p, `,"uid":`, int64(e.UID))
	p = appendNumber(p, `,"gid":`, int64(e.GID))
	p = appendTime(p, `,"modtime":"`, h.ModTime)
	p = appendTime(p, `,"accesstime":"`, h.AccessTime)
	p = appendTime(p, `,"changetime":"`, h.ChangeTime)
	if isUint32(h.Devmajor) && isUint32(h.Devminor) {
		p = appendNumber(p, `,"devMajor":`, h.Devmajor)
		p = appendNumber(p, `,"devMinor":`, h.Devminor)
	}
	return appendXattrs(p, h.PAXRecords)
}

// appendTime adds a key and a time, if JSON can hold it.
func appendTime(p []byte, key string, t time.Time) []byte {
	t = t.UTC()
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return p
	}
	return append(t.AppendFormat(append(p, key...), time.RFC3339Nano), '"')
}

// entryOf says what h is in the words of a TOC, if a TOC has them.
func entryOf(h *tar.Header, check *checker) (*Entry, error) {
	e, err := describe(h)
	if err != nil {
		return nil, err
	}
	if err := check.name(e); err != nil {
		return nil, err
	}
	return e, checkText(h, check.lim)
}

// describe is entryOf without the limits of a TOC, without time and xattrs.
func describe(h *tar.Header) (*Entry, error) {
	kind, ok := entryTypes[h.Typeflag]
	if !ok {
		return nil, fserr.Newf(fserr.Unsupported, "", "", "tar entry type %q has no place in a layer", h.Typeflag)
	}
	e := &Entry{Name: h.Name, Type: kind, Size: h.Size, Mode: uint32(h.Mode) & 0o7777}
	switch kind {
	case TypeSymlink, TypeHardlink:
		e.LinkName = h.Linkname
	case TypeChar, TypeBlock:
		e.DevMajor, e.DevMinor = uint32(h.Devmajor), uint32(h.Devminor)
		if int64(e.DevMajor) != h.Devmajor || int64(e.DevMinor) != h.Devminor {
			return nil, fmt.Errorf("%w: device %d:%d", ErrNumber, h.Devmajor, h.Devminor)
		}
	}
	if h.Uid < 0 || int64(h.Uid) > math.MaxUint32 || h.Gid < 0 || int64(h.Gid) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: owner %d:%d", ErrNumber, h.Uid, h.Gid)
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	return e, nil
}

// checkText refuses what JSON cannot hold and what readers have limits for.
func checkText(h *tar.Header, lim Limits) error {
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		return fserr.Newf(fserr.Unsupported, "", "", "a TOC cannot hold a name that is not UTF-8")
	}
	if len(h.Linkname) > lim.LinkBytes {
		return fmt.Errorf("%w: %d bytes", ErrLinkSize, len(h.Linkname))
	}
	size := 0
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		switch {
		case !ok:
			continue
		case name == "" || len(name) > lim.ComponentBytes || !utf8.ValidString(name):
			return fmt.Errorf("%w: name of %d bytes", ErrXattr, len(name))
		}
		if size += len(name) + len(v); size > lim.XattrBytes {
			return fmt.Errorf("%w: limit %d bytes", ErrXattrSize, lim.XattrBytes)
		}
	}
	return nil
}

func appendXattrs(p []byte, records map[string]string) []byte {
	sep := `,"xattrs":{`
	for _, k := range slices.Sorted(maps.Keys(records)) {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		p = append(appendText(append(p, sep...), name), `:"`...)
		p = append(base64.StdEncoding.AppendEncode(p, []byte(records[k])), '"')
		sep = ","
	}
	if sep == "," {
		p = append(p, '}')
	}
	return p
}

// appendNumber adds a key and a number that is not 0.
func appendNumber(p []byte, key string, v int64) []byte {
	if v == 0 {
		return p
	}
	return strconv.AppendInt(append(p, key...), v, 10)
}

// appendText adds a JSON string.
func appendText(p []byte, s string) []byte {
	const digits = "0123456789abcdef"
	p = append(p, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case plain[c]:
			p = append(p, c)
		case c == '"', c == '\\':
			p = append(p, '\\', c)
		default:
			p = append(p, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(p, '"')
}
