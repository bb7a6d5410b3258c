package testreg

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxUpload bounds one upload.
const maxUpload = 1 << 30

type upload struct {
	repo string
	data []byte
}

// serveUpload is the upload part of the distribution specification: start or
// mount with POST, append with PATCH, finish with PUT, give up with DELETE.
func (r *Registry) serveUpload(w http.ResponseWriter, q *http.Request, repo, id string) {
	if q.Method == http.MethodPost {
		r.startUpload(w, q, repo)
		return
	}
	r.mu.Lock()
	up := r.uploads[id]
	r.mu.Unlock()
	if up == nil || up.repo != repo {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
		return
	}
	switch q.Method {
	case http.MethodPatch:
		if r.appendUpload(w, q, up) {
			r.acceptUpload(w, repo, id, up)
		}
	case http.MethodPut:
		if r.appendUpload(w, q, up) {
			r.finishUpload(w, q, repo, id, up)
		}
	case http.MethodDelete:
		r.mu.Lock()
		delete(r.uploads, id)
		r.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	}
}

func (r *Registry) startUpload(w http.ResponseWriter, q *http.Request, repo string) {
	query := q.URL.Query()
	if d := digest.Digest(query.Get("mount")); d != "" {
		if data, ok := r.Blob(query.Get("from"), d); ok {
			r.mu.Lock()
			r.link(repo, d, data)
			r.mu.Unlock()
			r.created(w, "/v2/"+repo+"/blobs/"+d.String(), d)
			return
		}
	}
	up := &upload{repo: repo}
	r.mu.Lock()
	r.nextID++
	id := fmt.Sprintf("upload-%d", r.nextID)
	r.uploads[id] = up
	r.mu.Unlock()
	r.acceptUpload(w, repo, id, up)
}

func (r *Registry) acceptUpload(w http.ResponseWriter, repo, id string, up *upload) {
	// Relative, and with a query of its own: clients must cope with both.
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id+"?state=s")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(up.data)-1, 0)))
	w.WriteHeader(http.StatusAccepted)
}

func (r *Registry) created(w http.ResponseWriter, location string, d digest.Digest) {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) appendUpload(w http.ResponseWriter, q *http.Request, up *upload) bool {
	if cr := q.Header.Get("Content-Range"); cr != "" {
		var from, to int
		if _, err := fmt.Sscanf(cr, "%d-%d", &from, &to); err != nil || from != len(up.data) {
			refuse(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk out of order")
			return false
		}
	}
	data, err := io.ReadAll(io.LimitReader(q.Body, maxUpload))
	if err != nil {
		refuse(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", err.Error())
		return false
	}
	up.data = append(up.data, data...)
	return true
}

func (r *Registry) finishUpload(w http.ResponseWriter, q *http.Request, repo, id string, up *upload) {
	d := digest.Digest(q.URL.Query().Get("digest"))
	right := d == digest.FromBytes(up.data)
	r.mu.Lock()
	delete(r.uploads, id)
	if right {
		r.link(repo, d, up.data)
	}
	r.mu.Unlock()
	if !right {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "content does not have this digest")
		return
	}
	r.created(w, "/v2/"+repo+"/blobs/"+d.String(), d)
}

func (r *Registry) putManifest(w http.ResponseWriter, q *http.Request, repo, target string) {
	data, err := io.ReadAll(io.LimitReader(q.Body, 8<<20))
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	d := digest.FromBytes(data)
	if want, err := digest.Parse(target); err == nil {
		if want != d {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "content does not have this digest")
			return
		}
		target = ""
	}
	if missing := r.missingPart(repo, data); missing != "" {
		refuse(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", missing)
		return
	}
	r.AddManifest(repo, target, q.Header.Get("Content-Type"), data)
	r.created(w, "/v2/"+repo+"/manifests/"+d.String(), d)
}

// missingPart names something that a manifest refers to and the repository does
// not hold.
func (r *Registry) missingPart(repo string, data []byte) string {
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "a JSON document"
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, l := range doc.Layers {
		if _, ok := r.Blob(repo, l.Digest); !ok {
			return l.Digest.String()
		}
	}
	for _, m := range doc.Manifests {
		if _, _, ok := r.Manifest(repo, m.Digest.String()); !ok {
			return m.Digest.String()
		}
	}
	return ""
}
