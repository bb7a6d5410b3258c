package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// maxBody bounds a request or an answer of the control socket, in bytes.
const maxBody = 16 << 20

// Handler serves the control API.
func (k *Keeper) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathMount, func(w http.ResponseWriter, r *http.Request) {
		var req MountRequest
		if k.read(w, r, &req) {
			st, err := k.Mount(r.Context(), req)
			k.answer(w, st, err)
		}
	})
	mux.HandleFunc("POST "+pathUmount, func(w http.ResponseWriter, r *http.Request) {
		var req UmountRequest
		if k.read(w, r, &req) {
			k.answer(w, struct{}{}, k.Unmount(r.Context(), req.Target, req.Lazy))
		}
	})
	mux.HandleFunc("GET "+pathMounts, func(w http.ResponseWriter, _ *http.Request) { k.answer(w, k.List(), nil) })
	mux.HandleFunc("GET "+pathHealth, func(w http.ResponseWriter, _ *http.Request) { k.answer(w, k.Health(), nil) })
	return mux
}

func (k *Keeper) read(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		k.answer(w, nil, fserr.New(fserr.Invalid, "read request", "", err))
		return false
	}
	return true
}

func (k *Keeper) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		kind := fserr.KindOf(err)
		w.WriteHeader(httpStatus(kind))
		v = failure{Kind: kind.String(), Error: err.Error()}
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		k.log.Debug("answer not delivered", zap.Error(err))
	}
}

func httpStatus(kind fserr.Kind) int {
	switch kind {
	case fserr.NotExist:
		return http.StatusNotFound
	case fserr.Invalid, fserr.NotDir:
		return http.StatusBadRequest
	case fserr.Busy:
		return http.StatusConflict
	case fserr.Permission, fserr.Unauthorized:
		return http.StatusForbidden
	case fserr.Unavailable, fserr.Closed, fserr.Canceled:
		return http.StatusServiceUnavailable
	case fserr.Unsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// shutdownWait is how long requests may take that are being answered when
// Serve is told to end.
const shutdownWait = 2 * time.Second

// Serve answers on ln until ctx ends, and then what it has begun to answer.
func (k *Keeper) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           k.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // cuts off what is left
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}
