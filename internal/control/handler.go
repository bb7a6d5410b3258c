package control

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/nineply/nineply/internal/fserr"
)

// maxRequest bounds what the daemon reads of one request, bytes.
const maxRequest = 1 << 20

// NewHandler serves s. metrics, when not nil, is served at /metrics.
func NewHandler(s Service, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/layers", func(w http.ResponseWriter, r *http.Request) {
		var l Layer
		if !decode(w, r, &l) {
			return
		}
		st, err := s.AddLayer(r.Context(), l)
		reply(w, st, err)
	})
	mux.HandleFunc("DELETE /v1/chains/{id}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, s.RemoveChain(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("POST /v1/mounts", func(w http.ResponseWriter, r *http.Request) {
		var m MountRequest
		if !decode(w, r, &m) {
			return
		}
		reply(w, nil, s.Mount(r.Context(), m))
	})
	mux.HandleFunc("DELETE /v1/mounts", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, s.Unmount(r.Context(), r.URL.Query().Get("target")))
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.Status(r.Context())
		reply(w, st, err)
	})
	handleStat(mux, s)
	handleChecks(mux, s)
	handleImages(mux, s)
	handleIndexes(mux, s)
	handleCache(mux, s)
	handleProfiles(mux, s)
	handleEvents(mux, s)
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	return decodeUpTo(w, r, into, maxRequest)
}

func decodeUpTo(w http.ResponseWriter, r *http.Request, into any, limit int64) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		reply(w, nil, fserr.Newf(fserr.Invalid, "request", "", "%w", err))
		return false
	}
	return true
}

// reply writes an answer. A client that has gone away cannot be told anything,
// so write errors end here.
func reply(w http.ResponseWriter, answer any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		kind := fserr.KindOf(err)
		w.WriteHeader(httpStatus(kind))
		_ = json.NewEncoder(w).Encode(errorBody{Kind: kind.String(), Error: err.Error()})
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	text, err := json.Marshal(answer)
	if err != nil {
		reply(w, nil, fserr.New(fserr.Internal, "encode", "answer", errors.Join(err)))
		return
	}
	_, _ = w.Write(text)
}

func httpStatus(k fserr.Kind) int {
	switch k {
	case fserr.NotExist:
		return http.StatusNotFound
	case fserr.Invalid, fserr.NotDir, fserr.IsDir:
		return http.StatusBadRequest
	case fserr.Permission, fserr.Unauthorized, fserr.ReadOnly:
		return http.StatusForbidden
	case fserr.Busy:
		return http.StatusConflict
	case fserr.Unavailable, fserr.Canceled, fserr.Closed:
		return http.StatusServiceUnavailable
	case fserr.Unsupported:
		return http.StatusNotImplemented
	default:
		return http.StatusInternalServerError
	}
}
