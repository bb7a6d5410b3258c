package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/nineply/nineply/internal/source/credentials"
)

const (
	// maxTime bounds a run, as kubelet does.
	maxTime = time.Minute
	// maxOutput bounds what a plug-in may say, bytes.
	maxOutput = 1 << 20
	// maxKept bounds the answers that are kept.
	maxKept = 1024
	// maxConfig bounds the file.
	maxConfig = 1 << 20
)

// Source asks plug-ins.
type Source struct {
	config, dir string
	now         func() time.Time

	mu   sync.Mutex
	kept map[string]answer // by plug-in and image
}

// answer is what a plug-in said.
type answer struct {
	ring  credentials.Keyring
	until time.Time
}

var _ credentials.Source = (*Source)(nil)

// New makes a source of kubelet's --image-credential-provider-config and
// --image-credential-provider-bin-dir. Nothing is read before it is asked.
func New(config, dir string) *Source {
	return &Source{config: config, dir: dir, now: time.Now, kept: map[string]answer{}}
}

// plugin is one of "providers".
type plugin struct {
	Name            string         `yaml:"name"`
	MatchImages     []string       `yaml:"matchImages"`
	DefaultDuration string         `yaml:"defaultCacheDuration"`
	APIVersion      string         `yaml:"apiVersion"`
	Args            []string       `yaml:"args"`
	Env             []variable     `yaml:"env"`
	TokenAttributes map[string]any `yaml:"tokenAttributes"`
}

type variable struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// Credentials implements credentials.Source.
func (s *Source) Credentials(ctx context.Context, host, repository string) ([]credentials.Credential, error) {
	plugins, err := s.load()
	if err != nil {
		return nil, err
	}
	var out []credentials.Credential
	var errs []error
	for _, p := range plugins {
		if len(p.TokenAttributes) > 0 || !p.matches(host, repository) {
			continue
		}
		ring, err := s.ask(ctx, p, host+"/"+repository)
		if err != nil {
			errs = append(errs, fmt.Errorf("credential provider %s: %w", p.Name, err))
			continue
		}
		out = append(out, ring.Find(host, repository)...)
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, errors.Join(errs...)
}

// load reads the file anew: it is small, and asked for with each token only.
func (s *Source) load() ([]plugin, error) {
	fi, err := os.Stat(s.config)
	if err != nil {
		return nil, fmt.Errorf("credential providers: %w", err)
	}
	if fi.Size() > maxConfig {
		return nil, fmt.Errorf("credential providers: %s has %d bytes, at most %d are read", s.config, fi.Size(), maxConfig)
	}
	data, err := os.ReadFile(s.config)
	if err != nil {
		return nil, fmt.Errorf("credential providers: %w", err)
	}
	var file struct {
		Kind      string   `yaml:"kind"`
		Providers []plugin `yaml:"providers"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil || file.Kind != "CredentialProviderConfig" {
		return nil, fmt.Errorf("credential providers: %s is no CredentialProviderConfig", s.config)
	}
	for _, p := range file.Providers {
		if p.Name == "" || filepath.Base(p.Name) != p.Name || p.Name == ".." || p.Name == "." {
			return nil, fmt.Errorf("credential providers: %q is no name of a program", p.Name)
		}
	}
	return file.Providers, nil
}

// matches compares as secrets are: with patterns of hosts and beginnings of paths.
func (p plugin) matches(host, repository string) bool {
	auths := make(map[string]map[string]string, len(p.MatchImages))
	for _, pattern := range p.MatchImages {
		auths[pattern] = map[string]string{"username": "x", "password": "x"}
	}
	ring, err := keyring(auths)
	return err == nil && len(ring.Find(host, repository)) > 0
}

func keyring(auths map[string]map[string]string) (credentials.Keyring, error) {
	data, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		return nil, err
	}
	return credentials.ParseKeyring(data)
}

// ask gives what the plug-in said of the image, or has it say it.
func (s *Source) ask(ctx context.Context, p plugin, image string) (credentials.Keyring, error) {
	key := p.Name + "\x00" + image
	s.mu.Lock()
	a, ok := s.kept[key]
	s.mu.Unlock()
	if ok && s.now().Before(a.until) {
		return a.ring, nil
	}
	ring, keep, err := s.run(ctx, p, image)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= maxKept {
		clear(s.kept)
	}
	s.kept[key] = answer{ring: ring, until: s.now().Add(keep)}
	return ring, nil
}

func (s *Source) run(ctx context.Context, p plugin, image string) (credentials.Keyring, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	in, err := json.Marshal(map[string]string{"apiVersion": p.APIVersion, "kind": "CredentialProviderRequest", "image": image})
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.dir, p.Name), p.Args...) //nolint:gosec // the administrator names it
	cmd.Stdin, cmd.Env, cmd.WaitDelay = bytes.NewReader(in), os.Environ(), time.Second
	for _, v := range p.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	var out limited
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, 0, err // what it wrote may be secret
	}
	var response struct {
		Kind     string                       `json:"kind"`
		Duration string                       `json:"cacheDuration"`
		Auth     map[string]map[string]string `json:"auth"`
	}
	if err := json.Unmarshal(out.Bytes(), &response); err != nil || response.Kind != "CredentialProviderResponse" {
		return nil, 0, errors.New("its answer is no CredentialProviderResponse")
	}
	ring, err := keyring(response.Auth)
	if err != nil {
		return nil, 0, err
	}
	keep, err := time.ParseDuration(response.Duration)
	if err != nil {
		keep, _ = time.ParseDuration(p.DefaultDuration) // none: it is run each time
	}
	return ring, keep, nil
}

// limited is a buffer that takes so much and no more.
type limited struct{ bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("more than %d bytes", maxOutput)
	}
	return l.Buffer.Write(p)
}
