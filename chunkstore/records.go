package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

// MaxRecord is the largest value [Records.Put] takes, in bytes.
const MaxRecord = 8 << 20

// maxRecordKey bounds a key, in bytes.
const maxRecordKey = 1024

// Records is a small durable key-value space for facts about layers, images and
// chains. It lives in the index database and is lost with it, should that be
// damaged: what is kept here must be something its owner can find out again.
type Records struct{ s *Store }

// Records gives the store's records. They are closed with the store.
func (s *Store) Records() *Records { return &s.records }

func recordKey(key string) ([]byte, error) {
	if key == "" || len(key) > maxRecordKey {
		return nil, fserr.Newf(fserr.Invalid, "record", fmt.Sprintf("%.40q", key), "key of %d bytes, want 1 to %d", len(key), maxRecordKey)
	}
	return append([]byte{prefixRecord}, key...), nil
}

// begin checks what all operations check.
func (r *Records) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.s.enter()
}

// Get gives a copy of the value of key; fserr.NotExist if there is none.
func (r *Records) Get(ctx context.Context, key string) ([]byte, error) {
	k, err := recordKey(key)
	if err != nil {
		return nil, err
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.s.leave()
	var out []byte
	err = r.s.db.get(k, func(val []byte) error {
		out = append([]byte{}, val...)
		return nil
	})
	if errors.Is(err, errNoKey) {
		return nil, fserr.New(fserr.NotExist, "get record", key, nil)
	}
	if err != nil {
		return nil, fserr.New(fserr.KindOf(err), "get record", key, err)
	}
	return out, nil
}

// Put sets key to val, durably: when it returns, the value survives a power
// cut. fserr.NoSpace if the disk is nearly full.
func (r *Records) Put(ctx context.Context, key string, val []byte) error {
	if len(val) > MaxRecord {
		return fserr.Newf(fserr.TooLarge, "put record", key, "%d bytes, at most %d", len(val), MaxRecord)
	}
	if val == nil {
		val = []byte{}
	}
	return r.change(ctx, "put record", key, slices.Clone(val))
}

// Delete removes key, durably. It is no error if there is none.
func (r *Records) Delete(ctx context.Context, key string) error {
	return r.change(ctx, "delete record", key, nil)
}

func (r *Records) change(ctx context.Context, op, key string, val []byte) error {
	k, err := recordKey(key)
	if err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.s.leave()
	err = r.s.applyIndex([]change{{k, val}})
	if err == nil {
		err = r.s.db.sync()
	}
	if err != nil {
		return fserr.New(fserr.KindOf(err), op, key, err)
	}
	return nil
}

// Walk calls fn for each key with the prefix, in order of keys, with a copy of
// its value, until fn fails, and returns fn's error. It sees a snapshot: fn may
// put and delete.
func (r *Records) Walk(ctx context.Context, prefix string, fn func(key string, val []byte) error) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.s.leave()
	return r.s.db.walk(append([]byte{prefixRecord}, prefix...), func(key, val []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(string(key[1:]), append([]byte{}, val...))
	})
}
