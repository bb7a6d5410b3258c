package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/registry"
)

// makeCertificate writes a certificate and its key, and gives a pool of it.
func makeCertificate(t *testing.T, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if certFile == keyFile {
		certPEM, keyPEM = append(certPEM, keyPEM...), nil
	}
	write(t, certFile, string(certPEM))
	if keyPEM != nil {
		write(t, keyFile, string(keyPEM))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

// peers notes whether clients of a server showed a certificate.
type peers struct {
	mu    sync.Mutex
	shown []bool
}

func (p *peers) note(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = append(p.shown, len(r.TLS.PeerCertificates) > 0)
}

func startTLS(t *testing.T, config *tls.Config, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = config
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the test
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// TestClientCertificate shows a certificate to the registry that wants one, and
// not to the storage that the registry redirects to, though that would take it.
func TestClientCertificate(t *testing.T) {
	for _, pair := range [][2]string{{"c.pem", "k.pem"}, {"both.pem", "both.pem"}} {
		t.Run(pair[0], func(t *testing.T) {
			dir := t.TempDir()
			pool := makeCertificate(t, filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1]))
			data := []byte("some bytes")
			var atStorage, atRegistry peers
			storage := startTLS(t, &tls.Config{ClientAuth: tls.RequestClientCert}, func(w http.ResponseWriter, r *http.Request) {
				atStorage.note(r)
				_, _ = w.Write(data)
			})
			reg := startTLS(t, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}, func(w http.ResponseWriter, r *http.Request) {
				atRegistry.note(r)
				http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
			})
			write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: reg.Certificate().Raw})))
			client := fmt.Sprintf("[[%q, %q]]", filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1]))
			if pair[0] == pair[1] {
				client = fmt.Sprintf("%q", filepath.Join(dir, pair[0]))
			}
			host := reg.Listener.Addr().String()
			desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
			read := func(extra string) error {
				opts := configure(t, registry.Options{}, host, fmt.Sprintf("server = %q\nca = %q\n%s", reg.URL, filepath.Join(dir, "ca.pem"), extra))
				b, err := open(t, opts).Blob(t.Context(), host+"/demo", desc)
				if err != nil {
					t.Fatal(err)
				}
				return b.ReadRange(bounded(t), 0, make([]byte, len(data)))
			}
			if err := read("client = " + client); err != nil {
				t.Fatal(err)
			}
			if len(atRegistry.shown) != 1 || !atRegistry.shown[0] || len(atStorage.shown) != 1 || atStorage.shown[0] {
				t.Errorf("certificate shown to registry %v and storage %v", atRegistry.shown, atStorage.shown)
			}
			wantKind(t, read(""), fserr.Unavailable)
			wantKind(t, read(`client = "nowhere.pem"`), fserr.Invalid)
		})
	}
}
