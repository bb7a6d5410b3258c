package estargz

import (
	"encoding/base64"
	"fmt"
	"math"
	"time"
)

// field is a key of a TOC entry.
type field uint8

const (
	keyOther field = iota
	keyName
	keyType
	keySize
	keyModTime
	keyLinkName
	keyMode
	keyUID
	keyGID
	keyDevMajor
	keyDevMinor
	keyXattrs
	keyDigest
	keyOffset
	keyInnerOffset
	keyChunkOffset
	keyChunkSize
	keyChunkDigest
	keyChunkType
)

// fieldOf knows the keys that matter here. userName, groupName and the legacy
// NumLink are among the others: names are for the image's own /etc/passwd to
// tell, links are counted.
func fieldOf(key []byte) field {
	switch string(key) {
	case "name":
		return keyName
	case "type":
		return keyType
	case "size":
		return keySize
	case "modtime":
		return keyModTime
	case "linkName":
		return keyLinkName
	case "mode":
		return keyMode
	case "uid":
		return keyUID
	case "gid":
		return keyGID
	case "devMajor":
		return keyDevMajor
	case "devMinor":
		return keyDevMinor
	case "xattrs":
		return keyXattrs
	case "digest":
		return keyDigest
	case "offset":
		return keyOffset
	case "innerOffset":
		return keyInnerOffset
	case "chunkOffset":
		return keyChunkOffset
	case "chunkSize":
		return keyChunkSize
	case "chunkDigest":
		return keyChunkDigest
	case "chunkType":
		return keyChunkType
	}
	return keyOther
}

// entryKey reads the value of one key into the entry.
func (p *tocParser) entryKey(key []byte) (err error) {
	f := fieldOf(key)
	if err := p.want(':'); err != nil {
		return err
	}
	e := &p.entry
	switch f {
	case keyName:
		e.Name, err = p.shortText(p.check.lim.NameBytes, ErrNameSize)
	case keyType:
		e.Type, err = p.entryType()
	case keyModTime:
		e.ModTime, err = p.modTime()
	case keyLinkName:
		e.LinkName, err = p.shortText(p.check.lim.LinkBytes, ErrLinkSize)
	case keyXattrs:
		e.Xattrs, err = p.xattrs()
	case keyDigest:
		e.Digest, e.HasDigest, err = p.digest()
	case keyChunkDigest:
		e.ChunkDigest, e.HasChunkDigest, err = p.digest()
	case keyChunkType:
		e.Hole, err = p.chunkType()
	case keyOther:
		err = p.skip(1)
	default:
		err = p.number(e, f)
	}
	return err
}

func (p *tocParser) number(e *Entry, f field) error {
	v, err := p.int()
	if err != nil {
		return err
	}
	if f == keyMode {
		e.Mode = uint32(v) & 0o7777 // whatever else is in there is the type's
		return nil
	}
	if v < 0 {
		return fmt.Errorf("%w: %d", ErrNumber, v)
	}
	switch f {
	case keySize:
		e.Size = v
	case keyOffset:
		e.Offset = v
	case keyInnerOffset:
		e.InnerOffset = v
	case keyChunkOffset:
		e.ChunkOffset = v
	case keyChunkSize:
		e.ChunkSize = v
	default:
		return narrow(e, f, v)
	}
	return nil
}

func narrow(e *Entry, f field, v int64) error {
	if v > math.MaxUint32 {
		return fmt.Errorf("%w: %d", ErrNumber, v)
	}
	switch f {
	case keyUID:
		e.UID = uint32(v)
	case keyGID:
		e.GID = uint32(v)
	case keyDevMajor:
		e.DevMajor = uint32(v)
	case keyDevMinor:
		e.DevMinor = uint32(v)
	}
	return nil
}

// shortText reads a string of at most limit bytes, or null for none.
func (p *tocParser) shortText(limit int, tooLong error) (string, error) {
	if done, err := p.null(); done || err != nil {
		return "", err
	}
	s, err := p.str()
	if err != nil {
		return "", err
	}
	if len(s) > limit {
		return "", fmt.Errorf("%w: %d bytes, limit %d", tooLong, len(s), limit)
	}
	return string(s), nil
}

func (p *tocParser) entryType() (EntryType, error) {
	s, err := p.str()
	if err != nil {
		return 0, err
	}
	switch string(s) {
	case "dir":
		return TypeDir, nil
	case "reg":
		return TypeReg, nil
	case "symlink":
		return TypeSymlink, nil
	case "hardlink":
		return TypeHardlink, nil
	case "char":
		return TypeChar, nil
	case "block":
		return TypeBlock, nil
	case "fifo":
		return TypeFifo, nil
	case "chunk":
		return TypeChunk, nil
	}
	return 0, fmt.Errorf("%w: %.80q", ErrEntryType, s)
}

// chunkType reads what containers/storage says of a chunk: "" is data, "zeros" a
// run of zeros. eStargz has no such key, and its readers would read the bytes.
func (p *tocParser) chunkType() (hole bool, err error) {
	if !p.holes {
		return false, p.skip(1)
	}
	if done, err := p.null(); done || err != nil {
		return false, err
	}
	s, err := p.str()
	if err != nil {
		return false, err
	}
	switch string(s) {
	case "":
		return false, nil
	case "zeros":
		return true, nil
	}
	return false, fmt.Errorf("%w: chunk type %.80q", ErrEntryType, s)
}

// modTime reads an RFC 3339 time. What is no time is the zero time: it is not
// worth losing a layer over.
func (p *tocParser) modTime() (time.Time, error) {
	if done, err := p.null(); done || err != nil {
		return time.Time{}, err
	}
	s, err := p.str()
	if err != nil {
		return time.Time{}, err
	}
	if t, ok := parseUTC(s); ok {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // see above
	}
	return t.UTC(), nil
}

// parseUTC knows the one form that writers use: 2006-01-02T15:04:05Z.
func parseUTC(s []byte) (time.Time, bool) {
	const form = "0000-00-00T00:00:00Z"
	if len(s) != len(form) {
		return time.Time{}, false
	}
	for i := range len(form) {
		if form[i] == '0' {
			if s[i] < '0' || s[i] > '9' {
				return time.Time{}, false
			}
		} else if s[i] != form[i] {
			return time.Time{}, false
		}
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	month, day, hour, minute, second := two(5), two(8), two(11), two(14), two(17)
	if month < 1 || month > 12 || day < 1 || day > 28 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false // perhaps valid: the slow way will tell
	}
	return time.Date(two(0)*100+two(2), time.Month(month), day, hour, minute, second, 0, time.UTC), true
}

// xattrs reads an object of base64 values.
func (p *tocParser) xattrs() (map[string][]byte, error) {
	var m map[string][]byte
	room := p.check.lim.XattrBytes
	err := p.members(func(key []byte) error {
		if len(key) == 0 || len(key) > p.check.lim.ComponentBytes {
			return fmt.Errorf("%w: name of %d bytes", ErrXattr, len(key))
		}
		name := string(key)
		if err := p.want(':'); err != nil {
			return err
		}
		value, err := p.base64()
		if err != nil {
			return fmt.Errorf("%w: %.80q", err, name)
		}
		if room -= len(name) + len(value); room < 0 {
			return fmt.Errorf("%w: limit %d bytes", ErrXattrSize, p.check.lim.XattrBytes)
		}
		if m == nil {
			m = make(map[string][]byte, 1)
		}
		m[name] = value
		return nil
	})
	return m, err
}

func (p *tocParser) base64() ([]byte, error) {
	if done, err := p.null(); done || err != nil {
		return []byte{}, err
	}
	s, err := p.str()
	if err != nil {
		return nil, err
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Decode(value, s)
	if err != nil {
		return nil, ErrXattr
	}
	return value[:n], nil
}
