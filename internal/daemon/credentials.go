package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/credentials/cri"
	"github.com/nineply/nineply/internal/source/credentials/kube"
	"github.com/nineply/nineply/internal/source/credentials/provider"
	"go.uber.org/zap"
)

// keys are the sources of registry credentials, in the order in which they are asked,
// and what has to be ended of them.
type keys struct {
	chain credentials.Chain
	kube  *kube.Source // nil: not configured
	pulls *cri.Memory  // nil: not configured

	stop context.CancelFunc // of the proxy
	wg   sync.WaitGroup
	err  error // of the proxy, after wg
}

// newKeys makes the chain. Nothing is contacted before it is asked.
func newKeys(c config.Registry, log *zap.Logger) *keys {
	k := &keys{chain: credentials.Chain{credentials.DockerConfig(dockerConfig(c.DockerConfig))}}
	if c.Kubernetes.Secrets {
		var err error
		k.kube, err = kube.New(context.Background(), kube.Options{Kubeconfig: c.Kubernetes.Kubeconfig, Namespaces: c.Kubernetes.Namespaces, Logger: log})
		if err != nil {
			k.chain = append(k.chain, credentials.Func(func(context.Context, string, string) (credentials.Credential, error) {
				return credentials.Credential{}, err
			}))
		} else {
			k.chain = append(k.chain, k.kube)
		}
	}
	if c.Kubernetes.ProviderConfig != "" {
		k.chain = append(k.chain, provider.New(c.Kubernetes.ProviderConfig, c.Kubernetes.ProviderDir))
	}
	if c.CRI.Listen != "" {
		k.pulls = cri.NewMemory(time.Duration(c.CRI.Keep))
		k.chain = append(k.chain, k.pulls)
	}
	return k
}

// serveCRI has kubelet's pulls pass through this process, if that is configured.
// close ends it.
func (k *keys) serveCRI(ctx context.Context, c config.CRI, log *zap.Logger) error {
	if k.pulls == nil {
		return nil
	}
	proxy, err := cri.NewProxy(strings.TrimPrefix(c.Runtime, "unix:"), k.pulls, log)
	if err != nil {
		return err
	}
	ln, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	ctx, k.stop = context.WithCancel(ctx)
	k.wg.Go(func() {
		if k.err = ended(ctx, proxy.Serve(ctx, ln)); k.err != nil {
			log.Error("no longer passing on to the container runtime", zap.Error(k.err))
		}
	})
	log.Info("passing on to the container runtime", zap.String("listen", c.Listen), zap.String("runtime", c.Runtime))
	return nil
}

func (k *keys) close() error {
	if k.stop != nil {
		k.stop()
	}
	k.wg.Wait()
	if k.kube == nil {
		return k.err
	}
	return errors.Join(k.err, k.kube.Close())
}

// dockerConfig is the docker configuration to read credentials from.
func dockerConfig(path string) string {
	if path != "" {
		return path
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	return filepath.Join(home, ".docker", "config.json")
}
