package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// maxDockerConfig bounds the file that is read.
const maxDockerConfig = 4 << 20

// DockerConfig reads a docker config.json, with its credential helpers and
// credential store. The path may be that of its directory; an empty one means the one
// docker uses: in $DOCKER_CONFIG, else in ~/.docker. A file that does not exist has no credentials; one that
// changed is read again. Helpers are run for each answer.
func DockerConfig(path string) Source { return &dockerConfig{path: path} }

type dockerConfig struct {
	path string

	mu    sync.Mutex
	stamp string
	file  *dockerFile
}

// dockerFile is what matters of a config.json.
type dockerFile struct {
	ring    Keyring
	helpers map[string]string // by host; names of programs
	store   string
}

// Credentials implements [Source]. As docker does, a helper for the host is asked
// alone, and so is the store for all hosts.
func (c *dockerConfig) Credentials(ctx context.Context, host, repository string) ([]Credential, error) {
	file, err := c.load()
	if err != nil || file == nil {
		return nil, err
	}
	helper, names := file.helper(host)
	if helper == "" {
		return file.ring.Find(host, repository), nil
	}
	for _, name := range names {
		cred, err := credentials.NewNativeStore(helper).Get(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("credentials of %s: helper docker-credential-%s: %w", host, helper, err)
		}
		if cred != auth.EmptyCredential {
			return []Credential{Credential(cred)}, nil
		}
	}
	return nil, nil
}

// helper is the program to run for a host, and the names of the host to give it.
func (f *dockerFile) helper(host string) (program string, names []string) {
	names = []string{host}
	if Canonical(host) == hub {
		names = []string{"https://index.docker.io/v1/", hub, "index.docker.io", "registry-1.docker.io"}
	}
	for _, name := range names {
		if h := f.helpers[name]; h != "" {
			return h, []string{name}
		}
	}
	return f.store, names[:1]
}

func (c *dockerConfig) load() (*dockerFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path, err := c.locate()
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if os.IsNotExist(err) {
		c.file, c.stamp = nil, ""
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("docker config: %w", err)
	}
	stamp := fmt.Sprintf("%s|%d|%d", path, fi.ModTime().UnixNano(), fi.Size())
	if c.file != nil && stamp == c.stamp {
		return c.file, nil
	}
	if fi.Size() > maxDockerConfig {
		return nil, fmt.Errorf("docker config %s has %d bytes, at most %d are read", path, fi.Size(), maxDockerConfig)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("docker config: %w", err)
	}
	file, err := parseDocker(data)
	if err != nil {
		return nil, fmt.Errorf("docker config %s: %w", path, err)
	}
	c.file, c.stamp = file, stamp
	return file, nil
}

func parseDocker(data []byte) (*dockerFile, error) {
	var doc struct {
		Auths       map[string]authEntry `json:"auths"`
		CredHelpers map[string]string    `json:"credHelpers"`
		CredsStore  string               `json:"credsStore"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, describe(err)
	}
	ring, err := newKeyring(doc.Auths)
	if err != nil {
		return nil, err
	}
	// Patterns of hosts are Kubernetes' alone.
	ring = slices.DeleteFunc(ring, func(k key) bool { return matchHost(k.host, k.host) })
	return &dockerFile{ring: ring, helpers: doc.CredHelpers, store: doc.CredsStore}, nil
}

func (c *dockerConfig) locate() (string, error) {
	if c.path != "" {
		if fi, err := os.Stat(c.path); err == nil && fi.IsDir() {
			return filepath.Join(c.path, "config.json"), nil
		}
		return c.path, nil
	}
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("docker config: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json"), nil
}
