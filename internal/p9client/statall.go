package p9client

import (
	"context"
)

// StatResult is one answer of [File.StatAll].
type StatResult struct {
	Attr Attr
	Bare bool  // there are surely no extended attributes
	Err  error // nil or an errno
}

// statBatch is how many names StatAll asks about before it waits.
const statBatch = 64

// StatAll gives the attributes of names in the directory f, in their order,
// appended to out, asking for many at once. An errno concerns one name; the
// error is of the whole.
func (f *File) StatAll(ctx context.Context, names []string, out []StatResult) ([]StatResult, error) {
	batch := max(1, min(statBatch, f.c.opts.MaxInflight/3))
	for len(names) > 0 {
		part := names[:min(len(names), batch)]
		names = names[len(part):]
		var err error
		if out, err = f.statBatch(ctx, part, out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// statBatch sends what there is to ask for each name, then collects. All of
// them are collected, whatever happens, so that no fid is lost.
func (f *File) statBatch(ctx context.Context, names []string, out []StatResult) ([]StatResult, error) {
	at := len(out)
	ps := make([]pipeline, len(names))
	files := make([]*File, len(names))
	sent := make([]int, len(names))
	out = append(out, make([]StatResult, len(names))...)
	for i := range names {
		p := &ps[i]
		p.c = f.c
		files[i] = p.walk(ctx, f, names[i:i+1])
		p.stat(files[i], &out[at+i].Attr)
		p.bare(files[i], &out[at+i].Bare)
		if p.err == nil {
			sent[i] = p.post(ctx)
		}
	}
	f.c.kick()
	var fatal error
	for i := range ps {
		err := ps[i].collect(ctx, sent[i])
		if err == nil {
			err = files[i].Close()
		}
		if err != nil && !isErrno(err) && fatal == nil {
			fatal = err
		}
		out[at+i].Err = err
	}
	return out, fatal
}
