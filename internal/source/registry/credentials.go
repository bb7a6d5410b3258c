package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credential is what a host may be shown. The zero value means anonymous.
type Credential struct {
	Username, Password string
	// RefreshToken, also called identity token, is exchanged for tokens.
	RefreshToken string
	// AccessToken, also called registry token, is sent as it is.
	AccessToken string
}

// CredentialFunc finds the credential for a repository on a host, given with its
// port. It is asked again whenever a host wants new proof, so it may renew.
type CredentialFunc func(ctx context.Context, host, repository string) (Credential, error)

// Anonymous has no credentials.
func Anonymous(context.Context, string, string) (Credential, error) { return Credential{}, nil }

// FirstCredential asks one after the other until one knows the host. An error
// ends the search: a provider that is broken must not silently become
// anonymous access.
func FirstCredential(providers ...CredentialFunc) CredentialFunc {
	return func(ctx context.Context, host, repository string) (Credential, error) {
		for _, p := range providers {
			c, err := p(ctx, host, repository)
			if err != nil || c != (Credential{}) {
				return c, err
			}
		}
		return Credential{}, nil
	}
}

// DockerConfig reads a docker config.json, with its credential helpers and
// credential store. An empty path means the one docker uses: in $DOCKER_CONFIG,
// else in ~/.docker. A file that does not exist has no credentials; one that
// changed is read again.
func DockerConfig(path string) CredentialFunc {
	return (&dockerConfig{path: path}).get
}

type dockerConfig struct {
	path string

	mu    sync.Mutex
	stamp string
	store credentials.Store
}

func (c *dockerConfig) get(ctx context.Context, host, _ string) (Credential, error) {
	store, err := c.load()
	if err != nil || store == nil {
		return Credential{}, err
	}
	cred, err := credentials.Credential(store)(ctx, host)
	if err != nil {
		return Credential{}, fmt.Errorf("credentials of %s: %w", host, err)
	}
	return Credential(cred), nil
}

func (c *dockerConfig) load() (credentials.Store, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path, err := c.locate()
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if os.IsNotExist(err) {
		c.store, c.stamp = nil, ""
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("docker config: %w", err)
	}
	stamp := fmt.Sprintf("%s|%d|%d", path, fi.ModTime().UnixNano(), fi.Size())
	if c.store != nil && stamp == c.stamp {
		return c.store, nil
	}
	store, err := credentials.NewStore(path, credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("docker config %s: %w", path, err)
	}
	c.store, c.stamp = store, stamp
	return store, nil
}

func (c *dockerConfig) locate() (string, error) {
	if c.path != "" {
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
