package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	secretType = "kubernetes.io/dockerconfigjson"
	secretKey  = ".dockerconfigjson"

	// pageSize is how many secrets one answer holds.
	pageSize = 100
	// maxPages bounds the answers of one list.
	maxPages = 1000
	// maxAnswer bounds one page; a secret has at most 1 MiB.
	maxAnswer = 128 << 20
	// maxEvent bounds one event of a watch.
	maxEvent = 4 << 20
	// listTime bounds the request of one page.
	listTime = time.Minute
)

// errGone says that a watch cannot go on from where it was: the list has to be made
// again.
var errGone = errors.New("the watch has expired")

// secret is what matters of one.
type secret struct {
	Metadata struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Type string            `json:"type"`
	Data map[string][]byte `json:"data"`
}

func (s *secret) id() string { return s.Metadata.Namespace + "/" + s.Metadata.Name }

type page struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []secret `json:"items"`
}

type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

type status struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// api asks one API server.
type api struct {
	account *account
	client  *http.Client
}

func (a *api) close() { a.client.CloseIdleConnections() }

// get asks for the secrets of a namespace, or of all if it is empty.
func (a *api) get(ctx context.Context, namespace string, q url.Values) (*http.Response, error) {
	u := *a.account.server
	u.Path += "/api/v1"
	if namespace != "" {
		u.Path += "/namespaces/" + namespace
	}
	u.Path += "/secrets"
	q.Set("fieldSelector", "type="+secretType)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "nineply")
	if err := a.account.prove(req); err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // only what it says counts
	var st status
	if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&st) != nil {
		st = status{}
	}
	if resp.StatusCode == http.StatusGone {
		return nil, errGone
	}
	return nil, fmt.Errorf("the API server answers %s %s", resp.Status, clip(st.Message))
}

// clip keeps a foreign text short, and on one line.
func clip(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strconv.Quote(s)
}

// list gives every secret to fn, and what a watch can begin with.
func (a *api) list(ctx context.Context, namespace string, fn func(*secret)) (version string, err error) {
	next := ""
	for range maxPages {
		q := url.Values{"limit": {strconv.Itoa(pageSize)}}
		if next != "" {
			q.Set("continue", next)
		}
		p, err := a.page(ctx, namespace, q)
		if err != nil {
			return "", err
		}
		for i := range p.Items {
			fn(&p.Items[i])
		}
		if next = p.Metadata.Continue; next == "" {
			return p.Metadata.ResourceVersion, nil
		}
	}
	return "", fmt.Errorf("more than %d pages of secrets", maxPages)
}

func (a *api) page(ctx context.Context, namespace string, q url.Values) (*page, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	resp, err := a.get(ctx, namespace, q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	var p page
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&p); err != nil {
		return nil, fmt.Errorf("list of secrets: %w", err)
	}
	return &p, nil
}

// watch gives changes to fn until the server ends it, which it does in time. It
// returns what the next one can begin with.
func (a *api) watch(ctx context.Context, namespace, version string, life time.Duration, fn func(s *secret, gone bool)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, life+life/4+time.Second)
	defer cancel()
	resp, err := a.get(ctx, namespace, url.Values{
		"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {strconv.Itoa(max(1, int(life/time.Second)))},
	})
	if err != nil {
		return version, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		next, err := apply(lines.Bytes(), fn)
		if err != nil {
			return version, err
		}
		if next != "" {
			version = next
		}
	}
	return version, lines.Err()
}

// apply makes one change.
func apply(line []byte, fn func(s *secret, gone bool)) (version string, err error) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return "", errors.New("an event of the watch is no JSON")
	}
	if e.Type == "ERROR" {
		var st status
		if err := json.Unmarshal(e.Object, &st); err == nil && st.Code == http.StatusGone {
			return "", errGone
		}
		return "", fmt.Errorf("the watch ends: %s", clip(st.Message))
	}
	var s secret
	if err := json.Unmarshal(e.Object, &s); err != nil {
		return "", errors.New("an event of the watch has no secret")
	}
	switch e.Type {
	case "ADDED", "MODIFIED":
		fn(&s, false)
	case "DELETED":
		fn(&s, true)
	}
	return s.Metadata.ResourceVersion, nil
}
