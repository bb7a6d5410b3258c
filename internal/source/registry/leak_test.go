package registry_test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// stranger is a server that nobody configured, and notes what it is shown.
type stranger struct {
	*httptest.Server
	mu    sync.Mutex
	shown []string
	asked int
	certs int
}

// newStranger serves data, or a token, to whoever asks.
func newStranger(t *testing.T, secure bool, data []byte) *stranger {
	t.Helper()
	s := &stranger{}
	h := func(w http.ResponseWriter, r *http.Request) {
		s.note(r)
		if strings.HasPrefix(r.URL.Path, "/token") {
			_, _ = w.Write([]byte(`{"token":"from the stranger"}`))
			return
		}
		_, _ = w.Write(data)
	}
	if secure {
		s.Server = startTLS(t, &tls.Config{ClientAuth: tls.RequestClientCert}, h)
	} else {
		s.Server = httptest.NewServer(http.HandlerFunc(h))
		t.Cleanup(s.Close)
	}
	return s
}

func (s *stranger) note(r *http.Request) {
	_ = r.ParseForm() // what is no form has no secrets in it
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	for _, field := range []string{"Authorization", "X-Secret", "Cookie"} {
		if v := r.Header.Get(field); v != "" {
			s.shown = append(s.shown, field+": "+v)
		}
	}
	for _, field := range []string{"password", "refresh_token"} {
		if v := r.PostForm.Get(field); v != "" {
			s.shown = append(s.shown, field+"="+v)
		}
	}
	if r.TLS != nil {
		s.certs += len(r.TLS.PeerCertificates)
	}
}

func (s *stranger) seen() (asked, certs int, shown []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.certs, s.shown
}

// named is the stranger's address with another name of this machine in it, and a user
// if wanted.
func (s *stranger) named(host, user string) string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return err.Error()
	}
	u.Host = host + ":" + u.Port()
	if user != "" {
		u.User = url.UserPassword(user, "planted")
	}
	return u.String()
}

// TestRedirectsShowNothing sends requests on to other ports, hosts and schemes, with
// every way of proving who we are.
func TestRedirectsShowNothing(t *testing.T) {
	for proof, server := range map[string]testreg.Option{"basic": testreg.WithBasic("joe", "hush"), "bearer": testreg.WithBearer("joe", "hush")} {
		for _, tt := range []struct {
			name, host, user string
			secure, reached  bool
		}{
			{"another port", "127.0.0.1", "", false, true},
			{"another host", "localhost", "", false, true},
			{"with a user", "localhost", "mallory", false, true},
			{"another scheme", "127.0.0.1", "", true, false}, // whose certificate nobody trusts
		} {
			t.Run(proof+"/"+tt.name, func(t *testing.T) {
				f := newFixture(t, registry.Options{Credentials: knows{{Username: "joe", Password: "hush"}}, Attempts: 1}, server)
				s := newStranger(t, tt.secure, f.data)
				if err := f.readRange(bounded(t), 0, 100); err != nil { // with a token at hand
					t.Fatal(err)
				}
				f.Always(f.match(), testreg.Redirect(s.named(tt.host, tt.user)+"/blob"))
				err := f.readRange(bounded(t), 0, 100)
				asked, _, shown := s.seen()
				if (err == nil) != tt.reached || (asked > 0) != tt.reached || len(shown) > 0 {
					t.Errorf("%v; asked %d times and shown %v", err, asked, shown)
				}
				if err != nil && (strings.Contains(err.Error(), "planted") || strings.Contains(err.Error(), "hush")) {
					t.Errorf("the error tells a secret: %v", err)
				}
			})
		}
	}
}

// TestForeignLayers has a layer name addresses of its own.
func TestForeignLayers(t *testing.T) {
	f := newFixture(t, registry.Options{Credentials: knows{{Username: "joe", Password: "hush"}}}, testreg.WithBasic("joe", "hush"))
	s := newStranger(t, false, f.data)
	desc := f.desc
	desc.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	desc.URLs = []string{s.URL + "/layer", s.named("localhost", "mallory")}
	desc.Annotations = map[string]string{
		"containerd.io/snapshot/remote/urls":             s.URL,
		"containerd.io/snapshot/remote/stargz.reference": s.Listener.Addr().String() + "/demo:v1",
		"containerd.io/snapshot/cri.image-ref":           s.Listener.Addr().String() + "/demo:v1",
		"containerd.io/snapshot/pullusername":            "mallory",
	}
	f.RemoveBlob(desc.Digest)
	b, err := f.client.Blob(t.Context(), f.Ref("demo", "v1"), desc)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.ReadRange(bounded(t), 0, make([]byte, 100)), fserr.NotExist)
	if asked, _, _ := s.seen(); asked != 0 {
		t.Errorf("the addresses of the layer were asked %d times", asked)
	}
}

// TestTokenServerElsewhere has challenges name token servers that are not the host's.
func TestTokenServerElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name, realm  string // %s: the stranger's port
		secure, told bool
	}{
		{"same machine", "http://127.0.0.1:%s/token", false, true},
		{"by another name", "http://localhost:%s/token", false, true},
		{"with a user", "http://mallory:planted@127.0.0.1:%s/token", false, false},
		{"a certificate nobody trusts", "https://127.0.0.1:%s/token", true, false},
		{"in the clear elsewhere", "http://192.0.2.1:%s/token", false, false},
		{"the cloud's own", "http://169.254.169.254:%s/token", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, registry.Options{Credentials: knows{{Username: "joe", Password: "hush"}}, Attempts: 1})
			s := newStranger(t, tt.secure, nil)
			_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
			realm := fmt.Sprintf(tt.realm, port)
			f.Always(f.match(), testreg.Status(401, "WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"x\"", realm)))
			err := f.readRange(bounded(t), 0, 100)
			if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "planted") {
				t.Errorf("error: %v", err)
			}
			if _, _, shown := s.seen(); (len(shown) > 0) != tt.told {
				t.Errorf("the token server was shown %v", shown)
			}
		})
	}
}

// TestTokenServerOfSecureHost: what is configured for the connections to a host, its
// client certificate and not checking its own, is not for its token server.
func TestTokenServerOfSecureHost(t *testing.T) {
	dir := t.TempDir()
	makeCertificate(t, filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"))
	for _, tt := range []struct {
		name, host      string
		secure, reached bool
	}{
		{"another port", "127.0.0.1", true, true}, // the certificate of the same host is not checked either
		{"another host", "localhost", true, false},
		{"in the clear", "127.0.0.1", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := []byte("some bytes")
			s := newStranger(t, tt.secure, nil)
			reg := startTLS(t, &tls.Config{ClientAuth: tls.RequestClientCert}, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer from the stranger" {
					_, _ = w.Write(data)
					return
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", s.named(tt.host, "")+"/token"))
				w.WriteHeader(http.StatusUnauthorized)
			})
			host := reg.Listener.Addr().String()
			opts := configure(t, registry.Options{Credentials: knows{{Username: "joe", Password: "hush"}}, Attempts: 1}, host, fmt.Sprintf(
				"server = %q\nskip_verify = true\nclient = [[%q, %q]]\nheader = { X-Secret = \"hush\" }\n", reg.URL, filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")))
			client := open(t, opts)
			b, err := client.Blob(t.Context(), host+"/demo", descriptorOf(data))
			if err != nil {
				t.Fatal(err)
			}
			err = b.ReadRange(bounded(t), 0, make([]byte, len(data)))
			asked, certs, shown := s.seen()
			if (err == nil) != tt.reached || (asked > 0) != tt.reached || certs != 0 {
				t.Errorf("%v; asked %d times, %d certificates", err, asked, certs)
			}
			for _, field := range shown {
				if strings.HasPrefix(field, "X-Secret") || !tt.reached {
					t.Errorf("the token server was shown %s", field)
				}
			}
		})
	}
}

func descriptorOf(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// TestNamesOfHosts looks under which names credentials are looked up.
func TestNamesOfHosts(t *testing.T) {
	var who asked
	f := newFixture(t, registry.Options{}, testreg.WithBasic("joe", "hush"))
	who.set("docker.io", credentials.Credential{Username: "joe", Password: "hush"})
	who.set("registry-1.docker.io", credentials.Credential{Username: "joe", Password: "hush"})
	who.set("127.0.0.1", credentials.Credential{Username: "joe", Password: "hush"})
	// What takes the place of docker's hub has no business with its passwords.
	opts := configure(t, registry.Options{Credentials: credentials.Func(who.get)}, "docker.io", fmt.Sprintf("server = %q\n", f.URL()))
	b, err := open(t, opts).Blob(t.Context(), "docker.io/library/demo", f.desc)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.ReadRange(bounded(t), 0, make([]byte, 10)), fserr.Unauthorized)
	if len(who.log) == 0 || strings.TrimSuffix(who.log[0], "/library/demo") != f.Host() {
		t.Errorf("credentials were looked up for %v", who.log)
	}
	for _, q := range f.Requests(testreg.Match{}) {
		if q.Header.Get("Authorization") != "" {
			t.Errorf("%s was shown credentials of another name", q.Path)
		}
	}
}

// TestNothingIsLogged has everything go wrong that can, with a log of all levels.
func TestNothingIsLogged(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("joe:hush"))
	for _, server := range [][]testreg.Option{
		{testreg.WithBasic("joe", "hush"), testreg.WithRedirects()},
		{testreg.WithBearer("joe", "hush"), testreg.WithRedirects()},
	} {
		core, logs := observer.New(zap.DebugLevel)
		list := knows{{Username: "joe", Password: "hush-old"}, {RefreshToken: "hush-id"}, {Username: "joe", Password: "hush"}}
		f := newFixture(t, registry.Options{Credentials: list, Logger: zap.New(core), Attempts: 2}, server...)
		texts := []string{}
		for _, fault := range []testreg.Fault{
			testreg.Pass(), testreg.Status(401), testreg.Status(403), testreg.Status(500), testreg.NotFound(), testreg.Reset(-1), testreg.Reset(10),
			testreg.Redirect("http://joe:hush@127.0.0.1:1/?signature=hush"), testreg.Shift(3), testreg.WrongBytes(),
		} {
			for _, m := range []testreg.Match{{Registry: true, Path: "/blobs/"}, {Storage: true}, {Path: "/token"}} {
				f.Heal()
				f.Always(m, fault)
				f.ExpireTokens()
				f.ExpireRedirects()
				if err := f.readVerified(bounded(t), 0, 100); err != nil {
					texts = append(texts, err.Error())
				}
			}
		}
		for _, e := range logs.All() {
			texts = append(texts, fmt.Sprint(e.Message, e.ContextMap()))
		}
		if len(texts) < 10 {
			t.Errorf("only %d things went wrong", len(texts))
		}
		for _, text := range texts {
			if strings.Contains(text, "hush") || strings.Contains(text, basic) || strings.Contains(text, "signature=") || strings.Contains(text, "token-") {
				t.Errorf("a secret is told: %s", text)
			}
		}
	}
}
