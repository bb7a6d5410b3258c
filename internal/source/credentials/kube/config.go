package kube

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// serviceAccount is where a pod finds its own.
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
	// maxConfig bounds the files that are read.
	maxConfig = 1 << 20
)

// account is how to reach an API server, and as whom.
type account struct {
	server    *url.URL
	tls       *tls.Config
	token     string
	tokenFile string // read at each request
	user      string // with password
	password  string
}

// kubeconfig is what matters of such a file.
type kubeconfig struct {
	Current  string         `yaml:"current-context"`
	Contexts []namedContext `yaml:"contexts"`
	Clusters []namedCluster `yaml:"clusters"`
	Users    []namedUser    `yaml:"users"`
}

type namedContext struct {
	Name    string `yaml:"name"`
	Context struct {
		Cluster string `yaml:"cluster"`
		User    string `yaml:"user"`
	} `yaml:"context"`
}

type namedCluster struct {
	Name    string  `yaml:"name"`
	Cluster cluster `yaml:"cluster"`
}

type cluster struct {
	Server     string `yaml:"server"`
	CA         string `yaml:"certificate-authority"`
	CAData     string `yaml:"certificate-authority-data"`
	SkipVerify bool   `yaml:"insecure-skip-tls-verify"`
	ServerName string `yaml:"tls-server-name"`
}

type namedUser struct {
	Name string `yaml:"name"`
	User user   `yaml:"user"`
}

type user struct {
	Cert      string    `yaml:"client-certificate"`
	CertData  string    `yaml:"client-certificate-data"`
	Key       string    `yaml:"client-key"`
	KeyData   string    `yaml:"client-key-data"`
	Token     string    `yaml:"token"`
	TokenFile string    `yaml:"tokenFile"`
	Username  string    `yaml:"username"`
	Password  string    `yaml:"password"`
	Exec      yaml.Node `yaml:"exec"`
	Provider  yaml.Node `yaml:"auth-provider"`
}

// load reads a kubeconfig; with an empty path it takes the service account of the
// pod that this runs in.
func load(path string) (*account, error) {
	if path == "" {
		return inCluster(serviceAccount, os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	}
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	a, err := parse(data, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return a, nil
}

func inCluster(dir, host, port string) (*account, error) {
	if host == "" || port == "" {
		return nil, errors.New("no kubeconfig is named, and this is not a pod: KUBERNETES_SERVICE_HOST is not set")
	}
	a := &account{server: &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}, tokenFile: filepath.Join(dir, "token")}
	var err error
	a.tls, err = (cluster{CA: filepath.Join(dir, "ca.crt")}).tls(dir)
	return a, err
}

func parse(data []byte, dir string) (*account, error) {
	var file kubeconfig
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, errors.New("not the YAML of a kubeconfig") // whose errors quote it
	}
	who, where, err := file.choose()
	if err != nil {
		return nil, err
	}
	a := &account{token: who.Token, user: who.Username, password: who.Password}
	if who.TokenFile != "" { // which wins, as with kubectl
		a.token, a.tokenFile = "", within(dir, who.TokenFile)
	}
	if a.server, err = url.Parse(where.Server); err != nil || a.server.Host == "" || a.server.User != nil {
		return nil, errors.New("the cluster has no usable server address")
	}
	if a.server.Scheme != "https" && (a.server.Scheme != "http" || !loopback(a.server.Hostname())) {
		return nil, fmt.Errorf("the server %s is not reached by https", a.server.Host)
	}
	a.server.Path, a.server.RawQuery = strings.TrimSuffix(a.server.Path, "/"), ""
	if a.tls, err = where.tls(dir); err != nil {
		return nil, err
	}
	pair, err := who.certificate(dir)
	if err != nil {
		return nil, err
	}
	if pair != nil {
		a.tls.Certificates = []tls.Certificate{*pair}
	}
	return a, nil
}

// choose follows the current context.
func (f *kubeconfig) choose() (*user, *cluster, error) {
	for i := range f.Contexts {
		if c := &f.Contexts[i]; c.Name == f.Current {
			return f.pick(c.Context.User, c.Context.Cluster)
		}
	}
	return nil, nil, fmt.Errorf("there is no context %q, which is the current one", f.Current)
}

func (f *kubeconfig) pick(userName, clusterName string) (who *user, where *cluster, err error) {
	for i := range f.Users {
		if f.Users[i].Name == userName {
			who = &f.Users[i].User
		}
	}
	for i := range f.Clusters {
		if f.Clusters[i].Name == clusterName {
			where = &f.Clusters[i].Cluster
		}
	}
	switch {
	case who == nil:
		return nil, nil, fmt.Errorf("there is no user %q", userName)
	case where == nil:
		return nil, nil, fmt.Errorf("there is no cluster %q", clusterName)
	case !who.Exec.IsZero() || !who.Provider.IsZero():
		return nil, nil, fmt.Errorf("user %q is proved by a program, which is not run: use a token, a token file or a client certificate", userName)
	}
	return who, where, nil
}

func (c cluster) tls(dir string) (*tls.Config, error) {
	out := &tls.Config{InsecureSkipVerify: c.SkipVerify, ServerName: c.ServerName}
	pem, err := content(c.CAData, c.CA, dir)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	if len(pem) > 0 {
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("CA certificate: there is none in it")
		}
	}
	return out, nil
}

func (u *user) certificate(dir string) (*tls.Certificate, error) {
	cert, err := content(u.CertData, u.Cert, dir)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	key, err := content(u.KeyData, u.Key, dir)
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	if len(cert) == 0 {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	return &pair, nil
}

// content is what a field ending in -data holds, or else the file named beside it.
func content(data, file, dir string) ([]byte, error) {
	if data != "" {
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data))
		if err != nil {
			return nil, errors.New("not base64")
		}
		return plain, nil
	}
	if file == "" {
		return nil, nil
	}
	return readFile(within(dir, file))
}

func within(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxConfig {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, fi.Size(), maxConfig)
	}
	return os.ReadFile(path)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// client makes a client for the account, which no answer can send elsewhere.
func (a *account) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: a.tls, ForceAttemptHTTP2: true,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
			HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// prove adds what shows who we are.
func (a *account) prove(req *http.Request) error {
	token := a.token
	if a.tokenFile != "" {
		data, err := readFile(a.tokenFile)
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		token = strings.TrimSpace(string(data))
	}
	switch {
	case token != "":
		req.Header.Set("Authorization", "Bearer "+token)
	case a.user != "":
		req.SetBasicAuth(a.user, a.password)
	}
	return nil
}
