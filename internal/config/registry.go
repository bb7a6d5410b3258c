package config

import (
	"errors"
	"fmt"
	"regexp"
)

// Kubernetes says whether registry credentials are read from a cluster.
type Kubernetes struct {
	Secrets    bool     `toml:"secrets" comment:"Use the pull secrets (type kubernetes.io/dockerconfigjson) of a Kubernetes cluster."`
	Kubeconfig string   `toml:"kubeconfig" comment:"How to reach it, with a token, a token file or a client certificate; empty: the service account of the pod the daemon runs in."`
	Namespaces []string `toml:"namespaces" comment:"Whose secrets are used; none: those of all namespaces, which the account must be allowed to list and watch."`
	// ProviderConfig and ProviderDir are kubelet's.
	ProviderConfig string `toml:"provider_config" comment:"kubelet's --image-credential-provider-config, a file whose plug-ins are run as kubelet runs them; empty: none."`
	ProviderDir    string `toml:"provider_dir" comment:"kubelet's --image-credential-provider-bin-dir, where those plug-ins are."`
}

// CRI says whether registry credentials are learned from kubelet's pulls.
type CRI struct {
	Listen  string   `toml:"listen" comment:"Where kubelet's --image-service-endpoint is to point, unix:PATH; empty: nowhere."`
	Runtime string   `toml:"runtime" comment:"containerd's CRI socket, where everything is passed on to."`
	Keep    Duration `toml:"keep" comment:"How long the credentials of a pull are used; they are never written to disk."`
}

// validate reports the first value that cannot work.
func (r Registry) validate() error {
	for _, n := range r.Kubernetes.Namespaces {
		if len(n) > 63 || !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`).MatchString(n) {
			return fmt.Errorf("registry.kubernetes.namespaces: %q is not a namespace", n)
		}
	}
	if n := len(r.Kubernetes.Namespaces); n > 64 {
		return fmt.Errorf("registry.kubernetes.namespaces: %d namespaces, at most 64 are watched one by one", n)
	}
	if r.CRI.Listen == "" {
		return nil
	}
	for key, addr := range map[string]string{"listen": r.CRI.Listen, "runtime": r.CRI.Runtime} {
		network, _, err := SplitAddress(addr)
		if err == nil && network != "unix" {
			err = errors.New("only a unix socket is safe for credentials")
		}
		if err != nil {
			return fmt.Errorf("registry.cri.%s: %w", key, err)
		}
	}
	if r.CRI.Listen == r.CRI.Runtime {
		return errors.New("registry.cri: listen and runtime are the same socket")
	}
	return nil
}
