package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/table"
)

// badger opens its tables in goroutines of its own, where a damaged one makes
// it panic, past any recover: the process would die at every start. So the
// tables are checked before badger sees them. A table file is
//
//	blocks | index | index length | checksum of index | checksum length
//
// where lengths are 4 bytes, big-endian, a checksum is a protobuf message, and
// each block ends in a checksum and its length, too.
//
// Only those are checked that the manifest lists. A table that it does not list is
// one that a process was writing when it was killed, and may have any bytes: badger
// removes it unseen.

var errDamagedTable = errors.New("damaged table")

// listedTables gives the numbers of the tables that are part of the database.
func listedTables(dir string) (ids map[uint64]badger.TableManifest, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a new one
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	m, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m.Tables, nil
}

// checkTables checks the tables in dir that are part of the database, and gives the
// numbers of all that are there.
func checkTables(dir string) (map[uint64]bool, error) {
	listed, err := listedTables(dir)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return nil, err
	}
	ids := make(map[uint64]bool, len(names))
	for _, name := range names {
		id, ok := table.ParseFileID(name)
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, errDamagedTable)
		}
		ids[id] = true
		if _, ok := listed[id]; !ok {
			continue
		}
		if err := checkTable(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return ids, nil
}

func checkTable(name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	rest, sum, err := cutChecksum(f, st.Size())
	if err != nil {
		return err
	}
	var length [4]byte
	if err := readFull(f, length[:], rest-4); err != nil {
		return err
	}
	rest -= 4
	n := int64(binary.BigEndian.Uint32(length[:]))
	if n == 0 || n > rest {
		return errDamagedTable
	}
	index := make([]byte, n)
	if err := readFull(f, index, rest-n); err != nil {
		return err
	}
	if checksum(index) != sum {
		return errDamagedTable
	}
	return checkBlocks(f, index, rest-n)
}

// checkBlocks checks the blocks an index lists, which must lie before end.
func checkBlocks(f io.ReaderAt, index []byte, end int64) error {
	list := fb.GetRootAsTableIndex(index, 0)
	var block fb.BlockOffset
	var data []byte
	for i := range list.OffsetsLength() {
		if !list.Offsets(&block, i) {
			return errDamagedTable
		}
		off, n := int64(block.Offset()), int64(block.Len())
		if off+n > end {
			return errDamagedTable
		}
		bodyEnd, sum, err := cutChecksum(f, off+n)
		if err != nil {
			return err
		}
		if bodyEnd < off {
			return errDamagedTable
		}
		data = append(data[:0], make([]byte, bodyEnd-off)...)
		if err := readFull(f, data, off); err != nil {
			return err
		}
		if checksum(data) != sum {
			return errDamagedTable
		}
	}
	return nil
}

// cutChecksum reads the checksum, and its length, that end at end, and says
// where they begin.
func cutChecksum(f io.ReaderAt, end int64) (int64, uint32, error) {
	const longest = 64 // a message of two small fields
	var length [4]byte
	if end < int64(len(length)) {
		return 0, 0, errDamagedTable
	}
	end -= int64(len(length))
	if err := readFull(f, length[:], end); err != nil {
		return 0, 0, err
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	if n > longest || n+4 > end {
		return 0, 0, errDamagedTable
	}
	msg := make([]byte, n)
	if err := readFull(f, msg, end-n); err != nil {
		return 0, 0, err
	}
	sum, ok := decodeChecksum(msg)
	if !ok {
		return 0, 0, errDamagedTable
	}
	return end - n, sum, nil
}

// decodeChecksum reads a message {1: algorithm, 2: sum}, both varints, of which
// zeros are left out. Algorithm 0, CRC-32C, is what badger writes.
func decodeChecksum(msg []byte) (uint32, bool) {
	const fieldAlgorithm, fieldSum = 1 << 3, 2 << 3
	var sum uint64
	for len(msg) > 0 {
		key, n := binary.Uvarint(msg)
		if n <= 0 {
			return 0, false
		}
		val, m := binary.Uvarint(msg[n:])
		if m <= 0 {
			return 0, false
		}
		msg = msg[n+m:]
		switch {
		case key == fieldSum:
			sum = val
		case key != fieldAlgorithm || val != 0:
			return 0, false
		}
	}
	return uint32(sum), sum>>32 == 0
}
