package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const (
	stateName    = "STORE"
	stateMagic   = "NPLYSTO1"
	stateVersion = 1
	stateSize    = 128
	bootIDLen    = 36
	flagClean    = 1
	flagSuspect  = 2
)

// storeState is the content of the STORE file: the little that must be known
// before the index database can be believed.
type storeState struct {
	cookie uint64 // secret of this store; in every header, so that no payload can pose as one
	epoch  uint64 // number of opens; the database must have seen the same
	nextID uint32 // no segment id from here on was ever used
	clean  bool   // closed in good order
	// suspect: the database has failed a read since, and is not to be believed.
	suspect bool
	bootID  string // boot during which it was last opened
}

// errStateVersion: the directory was written by a later version.
var errStateVersion = errors.New("store format is of a later version")

func (st storeState) encode() []byte {
	le := binary.LittleEndian
	buf := make([]byte, stateSize)
	copy(buf, stateMagic)
	le.PutUint32(buf[8:], stateVersion)
	var flags uint32
	if st.clean {
		flags |= flagClean
	}
	if st.suspect {
		flags |= flagSuspect
	}
	le.PutUint32(buf[12:], flags)
	le.PutUint64(buf[16:], st.cookie)
	le.PutUint64(buf[24:], st.epoch)
	le.PutUint32(buf[32:], st.nextID)
	copy(buf[40:40+bootIDLen], st.bootID)
	le.PutUint32(buf[stateSize-4:], checksum(buf[:stateSize-4]))
	return buf
}

var errBadState = errors.New("not a valid state file")

func decodeState(buf []byte) (storeState, error) {
	le := binary.LittleEndian
	if len(buf) != stateSize || string(buf[:8]) != stateMagic ||
		le.Uint32(buf[stateSize-4:]) != checksum(buf[:stateSize-4]) {
		return storeState{}, errBadState
	}
	if v := le.Uint32(buf[8:]); v != stateVersion {
		return storeState{}, fmt.Errorf("version %d: %w", v, errStateVersion)
	}
	boot := buf[40 : 40+bootIDLen]
	n := 0
	for n < len(boot) && boot[n] != 0 {
		n++
	}
	return storeState{
		cookie:  le.Uint64(buf[16:]),
		epoch:   le.Uint64(buf[24:]),
		nextID:  le.Uint32(buf[32:]),
		clean:   le.Uint32(buf[12:])&flagClean != 0,
		suspect: le.Uint32(buf[12:])&flagSuspect != 0,
		bootID:  string(boot[:n]),
	}, nil
}

// readState reads dir's state file. fs.ErrNotExist if there is none,
// errBadState if it is damaged, errStateVersion if it is not ours to touch.
func readState(fsys FS, dir string) (storeState, error) {
	f, err := fsys.OpenFile(dir+"/"+stateName, os.O_RDONLY, 0)
	if err != nil {
		return storeState{}, err
	}
	buf := make([]byte, stateSize)
	err = readFull(f, buf, 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return storeState{}, fmt.Errorf("%w: %w", errBadState, err)
	}
	return decodeState(buf)
}

// writeState replaces dir's state file, durably.
func writeState(fsys FS, dir string, st storeState) error {
	tmp, name := dir+"/"+stateName+".tmp", dir+"/"+stateName
	f, err := fsys.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(st.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		if rerr := fsys.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
