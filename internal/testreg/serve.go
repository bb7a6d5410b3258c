package testreg

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

// meter counts the body on its way out, before a client can have it, and lets
// faults reach the connection.
type meter struct {
	http.ResponseWriter
	registry *Registry
	record   *Request
}

// WriteHeader implements http.ResponseWriter.
func (m *meter) WriteHeader(code int) {
	m.count(code, 0)
	m.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (m *meter) Write(p []byte) (int, error) {
	m.count(http.StatusOK, len(p))
	n, err := m.ResponseWriter.Write(p)
	if n < len(p) {
		m.count(http.StatusOK, n-len(p))
	}
	return n, err
}

func (m *meter) count(status, n int) {
	m.registry.update(func() {
		if m.record.Status == 0 {
			m.record.Status = status
		}
		m.record.Bytes += int64(n)
	})
}

// Unwrap is for http.ResponseController.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

type countedBody struct {
	io.ReadCloser
	registry *Registry
	record   *Request
}

// Read implements io.Reader.
func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.registry.update(func() { c.record.Received += int64(n) })
	return n, err
}

// handler wraps the proper answer in counting and faults.
func (r *Registry) handler(proper http.HandlerFunc, storage bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		rec := describe(q, storage)
		f := r.fault(&rec)
		r.record(&rec)
		q.Body = &countedBody{q.Body, r, &rec}
		m := &meter{w, r, &rec}
		if f != nil {
			f(Exchange{W: m, R: q, Closing: r.closing, Serve: proper})
			return
		}
		proper(m, q)
	})
}

// describe takes the path apart: /v2/<repository>/<kind>/<target>.
func describe(q *http.Request, storage bool) Request {
	rec := Request{
		Method: q.Method, Path: q.URL.Path, Query: q.URL.RawQuery,
		Header: q.Header.Clone(), Storage: storage,
	}
	repo, kind, target := splitPath(q.URL.Path)
	rec.Repo, rec.Target = repo, target
	if kind != "" {
		if d, err := digest.Parse(target); err == nil {
			rec.Digest = d
		}
	}
	return rec
}

func splitPath(path string) (repo, kind, target string) {
	i := strings.Index(path, "/v2/")
	if i < 0 {
		return "", "", ""
	}
	rest := path[i+len("/v2/"):]
	for _, kind := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/", "/tags/"} {
		if i := strings.LastIndex(rest, kind); i > 0 {
			return rest[:i], strings.Trim(kind, "/"), rest[i+len(kind):]
		}
	}
	return "", "", ""
}

func (r *Registry) serve(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/token" {
		r.serveToken(w, q)
		return
	}
	repo, kind, target := splitPath(q.URL.Path)
	if !r.authorize(w, q, repo) {
		return
	}
	read := q.Method == http.MethodGet || q.Method == http.MethodHead
	switch {
	case q.URL.Path == "/v2/" || q.URL.Path == "/v2":
		w.WriteHeader(http.StatusOK)
	case kind == "manifests" && read:
		r.serveManifest(w, q, repo, target)
	case kind == "manifests" && q.Method == http.MethodPut:
		r.putManifest(w, q, repo, target)
	case kind == "manifests" && q.Method == http.MethodDelete:
		r.deleteManifest(w, repo, target)
	case kind == "blobs" && read:
		r.serveBlob(w, q, repo, target)
	case kind == "blobs/uploads":
		r.serveUpload(w, q, repo, target)
	case kind == "referrers" && read:
		r.serveReferrers(w, repo, target)
	default:
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
}

func (r *Registry) serveManifest(w http.ResponseWriter, q *http.Request, repo, target string) {
	desc, data, ok := r.Manifest(repo, target)
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", desc.MediaType)
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if q.Method == http.MethodGet {
		_, _ = w.Write(data) // a client that went away is its own affair
	}
}

// deleteManifest forgets a tag or a manifest.
func (r *Registry) deleteManifest(w http.ResponseWriter, repo, target string) {
	r.mu.Lock()
	_, ok := r.manifests[manifestKey(repo, target)]
	delete(r.manifests, manifestKey(repo, target))
	r.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (r *Registry) serveBlob(w http.ResponseWriter, q *http.Request, repo, target string) {
	data, ok := r.Blob(repo, digest.Digest(target))
	if !ok {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if r.storage != nil {
		r.mu.Lock()
		to := fmt.Sprintf("%s/v2/%s/blobs/%s?signature=%d", r.storage.URL, repo, target, r.signature)
		r.mu.Unlock()
		http.Redirect(w, q, to, http.StatusTemporaryRedirect)
		return
	}
	r.content(w, q, target, data)
}

// serveStorage is the storage host: it knows signatures and no registry
// credentials.
func (r *Registry) serveStorage(w http.ResponseWriter, q *http.Request) {
	if q.Header.Get("Authorization") != "" {
		http.Error(w, "only one way of authentication may be used", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	valid := q.URL.Query().Get("signature") == strconv.Itoa(r.signature)
	r.mu.Unlock()
	if !valid {
		http.Error(w, "request has expired", http.StatusForbidden)
		return
	}
	repo, _, target := splitPath(q.URL.Path)
	data, ok := r.Blob(repo, digest.Digest(target))
	if !ok {
		http.Error(w, "no such key", http.StatusNotFound)
		return
	}
	r.content(w, q, target, data)
}

func (r *Registry) content(w http.ResponseWriter, q *http.Request, target string, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", target)
	if q.Method == http.MethodHead && r.opts.noHEADSize {
		return
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
}

// ExpireRedirects makes every storage address given out so far invalid.
func (r *Registry) ExpireRedirects() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signature++
}

// serveReferrers lists the manifests whose subject is target.
func (r *Registry) serveReferrers(w http.ResponseWriter, repo, target string) {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	r.mu.Lock()
	for key, m := range r.manifests {
		var doc ocispec.Manifest
		if !strings.HasPrefix(key, repo+"@") || json.Unmarshal(m.data, &doc) != nil {
			continue
		}
		if doc.Subject != nil && doc.Subject.Digest.String() == target {
			index.Manifests = append(index.Manifests, ocispec.Descriptor{
				MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.data)),
				ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
			})
		}
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(index)
}

// refuse answers with an error document of the distribution specification.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}
