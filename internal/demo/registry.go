package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
)

const registryConfig = `version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: %s}
http:
  addr: 127.0.0.1:0
  relativeurls: true
`

var listeningOn = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// startRegistry starts Debian's docker-registry and a counting proxy before it.
func (d *demo) startRegistry(ctx context.Context) error {
	file := filepath.Join(d.dir, "registry.yml")
	text := fmt.Sprintf(registryConfig, filepath.Join(d.dir, "registry"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	p, err := start(ctx, d.dir, "registry", []string{"OTEL_TRACES_EXPORTER=none"}, "docker-registry", "serve", file)
	if err != nil {
		return err
	}
	d.onStop(p.stop)
	var addr string
	err = p.await(ctx, func() error {
		log, err := os.ReadFile(p.log.Name())
		if err != nil {
			return err
		}
		match := listeningOn.FindSubmatch(log)
		if match == nil {
			return errors.New("not listening yet")
		}
		addr = string(match[1])
		return nil
	})
	if err != nil {
		return err
	}
	d.registry, err = startProxy(ctx, addr)
	if err != nil {
		return err
	}
	d.onStop(d.registry.close)
	return nil
}

// proxy passes requests on to a registry and counts the bytes it answers with.
type proxy struct {
	addr  string // host:port
	bytes atomic.Int64
	srv   *http.Server
	done  chan error
}

func startProxy(ctx context.Context, upstream string) (*proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &proxy{addr: ln.Addr().String(), done: make(chan error, 1)}
	rp := &httputil.ReverseProxy{
		// The host stays ours, so that the registry's redirects lead back here.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: upstream, Path: r.In.URL.Path, RawQuery: r.In.URL.RawQuery}
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(resp *http.Response) error {
			if strings.Contains(resp.Request.URL.Path, "/v2/") && resp.Request.Method == http.MethodGet {
				resp.Body = &countedBody{resp.Body, &p.bytes}
			}
			return nil
		},
	}
	p.srv = &http.Server{Handler: rp, ReadHeaderTimeout: startTimeout}
	go func() { p.done <- p.srv.Serve(ln) }()
	return p, nil
}

func (p *proxy) close() error {
	err := p.srv.Close()
	if serr := <-p.done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
