package cri

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/credentials"
)

const (
	// maxRepositories bounds the repositories whose credentials are kept.
	maxRepositories = 4096
	// maxEach bounds the credentials of one: those of as many namespaces.
	maxEach = 4
	// maxSecret is the longest part of a credential that is kept.
	maxSecret = 64 << 10
	// DefaultLife is how long a credential is kept: tokens of clouds last as long.
	DefaultLife = 12 * time.Hour
)

// Memory is what pulls have shown. It is safe for concurrent use.
type Memory struct {
	life time.Duration
	now  func() time.Time

	mu    sync.Mutex
	known map[place][]kept // the latest first
}

// place is a repository of a registry.
type place struct{ host, repository string }

type kept struct {
	cred  credentials.Credential
	until time.Time
}

var _ credentials.Source = (*Memory)(nil)

// NewMemory makes a Memory that keeps a credential for so long after the last pull
// that showed it; 0 means DefaultLife.
func NewMemory(life time.Duration) *Memory {
	if life <= 0 {
		life = DefaultLife
	}
	return &Memory{life: life, now: time.Now, known: map[place][]kept{}}
}

// Credentials implements [credentials.Source].
func (m *Memory) Credentials(_ context.Context, host, repository string) ([]credentials.Credential, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var out []credentials.Credential
	for _, k := range m.known[place{credentials.Canonical(host), repository}] {
		if now.Before(k.until) {
			out = append(out, k.cred)
		}
	}
	return out, nil
}

// Len is how many repositories have credentials.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.known)
}

// note keeps what a pull shows. The result takes it back.
func (m *Memory) note(p pull) (undo func()) {
	at, cred, ok := p.credential()
	if !ok {
		return func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	list := slices.DeleteFunc(m.known[at], func(k kept) bool { return !now.Before(k.until) })
	known := slices.ContainsFunc(list, func(k kept) bool { return k.cred == cred })
	list = slices.DeleteFunc(list, func(k kept) bool { return k.cred == cred })
	list = slices.Insert(list, 0, kept{cred, now.Add(m.life)})
	if _, there := m.known[at]; !there && len(m.known) >= maxRepositories {
		m.evict(now)
	}
	m.known[at] = list[:min(len(list), maxEach)]
	if known {
		return func() {}
	}
	return func() { m.forget(at, cred) }
}

func (m *Memory) forget(at place, cred credentials.Credential) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.DeleteFunc(m.known[at], func(k kept) bool { return k.cred == cred })
	if m.known[at] = list; len(list) == 0 {
		delete(m.known, at)
	}
}

// evict makes room for one repository; the caller holds mu.
func (m *Memory) evict(now time.Time) {
	var oldest place
	var at time.Time
	for p, list := range m.known {
		if len(list) == 0 || !now.Before(list[0].until) {
			delete(m.known, p)
		} else if at.IsZero() || list[0].until.Before(at) {
			oldest, at = p, list[0].until
		}
	}
	if len(m.known) >= maxRepositories {
		delete(m.known, oldest)
	}
}

// pull is what matters of a PullImage request.
type pull struct {
	image                      string
	username, password, auth   string
	server                     string
	identityToken, accessToken string
}

// credential is what the pull shows, and to whom: the registry of the image, or the
// server that the request names.
func (p pull) credential() (place, credentials.Credential, bool) {
	ref, err := source.ParseReference(p.image)
	if err != nil {
		return place{}, credentials.Credential{}, false
	}
	c := credentials.Credential{Username: p.username, Password: p.password, RefreshToken: p.identityToken, AccessToken: p.accessToken}
	if c == (credentials.Credential{}) && p.auth != "" {
		if c, err = credentials.ParseAuth(p.auth); err != nil {
			return place{}, credentials.Credential{}, false
		}
	}
	at := place{credentials.Canonical(ref.Host), ref.Repository}
	if p.server != "" {
		server := p.server
		if !strings.Contains(server, "://") {
			server = "https://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Host == "" {
			return place{}, credentials.Credential{}, false
		}
		at.host = credentials.Canonical(u.Host)
	}
	longest := max(len(c.Username), len(c.Password), len(c.RefreshToken), len(c.AccessToken))
	return at, c, c != (credentials.Credential{}) && longest <= maxSecret
}
