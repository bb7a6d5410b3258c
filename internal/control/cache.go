package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/nineply/nineply/internal/fserr"
)

// CacheList is what is in the cache.
type CacheList struct {
	Bytes       int64        `json:"bytes"`    // on disk
	MaxBytes    int64        `json:"maxBytes"` // 0: no limit
	Chunks      int64        `json:"chunks"`
	ProvenBytes int64        `json:"provenBytes"` // of chunks that were read again, about
	Pinned      int64        `json:"pinned"`      // chunks, whether they are there or not
	Images      []CacheImage `json:"images"`
}

// CacheImage is what an image has in the cache. A chunk that is in several of its
// layers counts for each.
type CacheImage struct {
	Ref        string       `json:"ref"`
	Manifest   string       `json:"manifest"`
	Pinned     bool         `json:"pinned"`
	InUse      bool         `json:"inUse"`
	Chunks     int          `json:"chunks"`
	Local      int          `json:"localChunks"`
	Bytes      int64        `json:"bytes"` // decompressed
	LocalBytes int64        `json:"localBytes"`
	Layers     []CacheLayer `json:"layers"`
}

// CacheLayer is what a layer has in the cache.
type CacheLayer struct {
	Digest     string `json:"digest"`
	Format     string `json:"format,omitempty"`
	Reason     string `json:"reason,omitempty"` // why its chunks are not known
	Chunks     int    `json:"chunks"`           // that differ
	Local      int    `json:"localChunks"`
	Bytes      int64  `json:"bytes"` // decompressed
	LocalBytes int64  `json:"localBytes"`
	IndexBytes int64  `json:"indexBytes"`
}

// CacheCollect says what is to be removed besides what is known of unused images.
type CacheCollect struct {
	Unused bool   `json:"unused,omitempty"` // chunks that no image in use has
	Target *int64 `json:"target,omitempty"` // chunks, until the cache takes so many bytes
}

// CacheCollected says what was removed.
type CacheCollected struct {
	Images     int   `json:"images"`
	Layers     int   `json:"layers"`
	Files      int   `json:"indexFiles"`
	FileBytes  int64 `json:"indexBytes"`
	Chunks     int64 `json:"chunks"`
	FreedBytes int64 `json:"freedBytes"` // of chunks
	Bytes      int64 `json:"bytes"`      // that the cache takes now
}

// CacheProgress tells of a check or a rebuild under way.
type CacheProgress struct {
	Done  int64 `json:"done"` // chunks, or segments of a rebuild
	All   int64 `json:"all"`  // about
	Bytes int64 `json:"bytes"`
}

// CacheVerified is the outcome of a check.
type CacheVerified struct {
	Chunks  int64    `json:"chunks"`
	Bytes   int64    `json:"bytes"`
	Damaged int64    `json:"damaged"` // dropped, to be fetched again
	Digests []string `json:"digests"` // of the first of these
}

// CacheRebuilt is the outcome of a rebuild.
type CacheRebuilt struct {
	Segments int64 `json:"segments"`
	Before   int64 `json:"chunksBefore"`
	Chunks   int64 `json:"chunks"`
}

// CachePinned tells of an image that was pinned or unpinned.
type CachePinned struct {
	Manifests []string `json:"manifests"`
	Chunks    int      `json:"chunks"`
}

// CacheService is what the daemon offers for its chunk store.
type CacheService interface {
	// CacheList tells what images have in the cache; one, if name is not "".
	CacheList(ctx context.Context, name string) (CacheList, error)
	// CollectCache removes what is not used any more.
	CollectCache(ctx context.Context, r CacheCollect) (CacheCollected, error)
	// VerifyCache reads every chunk, and drops the damaged ones. progress may be
	// nil; it is called now and then.
	VerifyCache(ctx context.Context, progress func(CacheProgress)) (CacheVerified, error)
	// RebuildCache finds the places of all chunks anew.
	RebuildCache(ctx context.Context, progress func(CacheProgress)) (CacheRebuilt, error)
	// PinImage keeps the chunks of an image in the cache.
	PinImage(ctx context.Context, name string) (CachePinned, error)
	// UnpinImage ends that.
	UnpinImage(ctx context.Context, name string) (CachePinned, error)
}

func handleCache(mux *http.ServeMux, s CacheService) {
	name := func(r *http.Request) string { return r.URL.Query().Get("name") }
	mux.HandleFunc("GET /v1/cache", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.CacheList(r.Context(), name(r))
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/cache/gc", func(w http.ResponseWriter, r *http.Request) {
		var in CacheCollect
		if !decode(w, r, &in) {
			return
		}
		out, err := s.CollectCache(r.Context(), in)
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/cache/verify", func(w http.ResponseWriter, r *http.Request) {
		replyLong(w, func(p func(CacheProgress)) (CacheVerified, error) { return s.VerifyCache(r.Context(), p) })
	})
	mux.HandleFunc("POST /v1/cache/rebuild", func(w http.ResponseWriter, r *http.Request) {
		replyLong(w, func(p func(CacheProgress)) (CacheRebuilt, error) { return s.RebuildCache(r.Context(), p) })
	})
	mux.HandleFunc("POST /v1/cache/pins", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.PinImage(r.Context(), name(r))
		reply(w, out, err)
	})
	mux.HandleFunc("DELETE /v1/cache/pins", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.UnpinImage(r.Context(), name(r))
		reply(w, out, err)
	})
}

// longReply is one line of the answer to something that takes long: progress,
// any number of times, and then the result or what went wrong.
type longReply[T any] struct {
	Progress *CacheProgress `json:"progress,omitempty"`
	Result   *T             `json:"result,omitempty"`
	Error    *errorBody     `json:"error,omitempty"`
}

// replyLong answers with JSON lines. A client that has gone away ends the
// request's context, and with it the work.
func replyLong[T any](w http.ResponseWriter, work func(func(CacheProgress)) (T, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	var mu sync.Mutex
	send := func(line longReply[T]) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(line)
		_ = http.NewResponseController(w).Flush()
	}
	out, err := work(func(p CacheProgress) { send(longReply[T]{Progress: &p}) })
	if err != nil {
		send(longReply[T]{Error: &errorBody{Kind: fserr.KindOf(err).String(), Error: err.Error()}})
		return
	}
	send(longReply[T]{Result: &out})
}

// callLong is a call that is answered by replyLong.
func callLong[T any](ctx context.Context, c *Client, path string, progress func(CacheProgress)) (out T, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://nineply"+path, nil)
	if err != nil {
		return out, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.unreachable(err)
	}
	defer func() { _ = resp.Body.Close() }() // nothing is lost
	if resp.StatusCode/100 != 2 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
		if err != nil {
			return out, c.unreachable(err)
		}
		return out, decodeError(resp.StatusCode, text)
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var line longReply[T]
		if err := lines.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the daemon has stopped
			}
			return out, c.unreachable(err)
		}
		switch {
		case line.Error != nil:
			text, err := json.Marshal(line.Error)
			if err != nil {
				return out, err
			}
			return out, decodeError(resp.StatusCode, bytes.TrimSpace(text))
		case line.Result != nil:
			return *line.Result, nil
		case line.Progress != nil && progress != nil:
			progress(*line.Progress)
		}
	}
}

// CacheList calls [CacheService.CacheList].
func (c *Client) CacheList(ctx context.Context, name string) (CacheList, error) {
	var out CacheList
	err := c.call(ctx, http.MethodGet, "/v1/cache?name="+url.QueryEscape(name), nil, &out)
	return out, err
}

// CollectCache calls [CacheService.CollectCache].
func (c *Client) CollectCache(ctx context.Context, r CacheCollect) (CacheCollected, error) {
	var out CacheCollected
	err := c.call(ctx, http.MethodPost, "/v1/cache/gc", r, &out)
	return out, err
}

// VerifyCache calls [CacheService.VerifyCache].
func (c *Client) VerifyCache(ctx context.Context, progress func(CacheProgress)) (CacheVerified, error) {
	return callLong[CacheVerified](ctx, c, "/v1/cache/verify", progress)
}

// RebuildCache calls [CacheService.RebuildCache].
func (c *Client) RebuildCache(ctx context.Context, progress func(CacheProgress)) (CacheRebuilt, error) {
	return callLong[CacheRebuilt](ctx, c, "/v1/cache/rebuild", progress)
}

// PinImage calls [CacheService.PinImage].
func (c *Client) PinImage(ctx context.Context, name string) (CachePinned, error) {
	var out CachePinned
	err := c.call(ctx, http.MethodPost, "/v1/cache/pins?name="+url.QueryEscape(name), nil, &out)
	return out, err
}

// UnpinImage calls [CacheService.UnpinImage].
func (c *Client) UnpinImage(ctx context.Context, name string) (CachePinned, error) {
	var out CachePinned
	err := c.call(ctx, http.MethodDelete, "/v1/cache/pins?name="+url.QueryEscape(name), nil, &out)
	return out, err
}
