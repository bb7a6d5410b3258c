package registry_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// asked is a credential provider that notes whom it was asked for.
type asked struct {
	mu   sync.Mutex
	cred map[string]credentials.Credential
	log  []string
}

func (a *asked) get(_ context.Context, host, repository string) (credentials.Credential, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, host+"/"+repository)
	return a.cred[host], nil
}

func (a *asked) set(host string, c credentials.Credential) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cred == nil {
		a.cred = map[string]credentials.Credential{}
	}
	a.cred[host] = c
}

func TestAuthentication(t *testing.T) {
	secret := credentials.Credential{Username: "joe", Password: "pw"}
	for _, tt := range []struct {
		name   string
		server []testreg.Option
		cred   credentials.Credential
		kind   fserr.Kind
	}{
		{"basic", []testreg.Option{testreg.WithBasic("joe", "pw")}, secret, 0},
		{"basic, wrong password", []testreg.Option{testreg.WithBasic("joe", "other")}, secret, fserr.Unauthorized},
		{"basic, none", []testreg.Option{testreg.WithBasic("joe", "pw")}, credentials.Credential{}, fserr.Unauthorized},
		{"token", []testreg.Option{testreg.WithBearer("joe", "pw")}, secret, 0},
		{"token for everybody", []testreg.Option{testreg.WithBearer("", "")}, credentials.Credential{}, 0},
		{"token, wrong password", []testreg.Option{testreg.WithBearer("joe", "other")}, secret, fserr.Unauthorized},
		{"token, none", []testreg.Option{testreg.WithBearer("joe", "pw")}, credentials.Credential{}, fserr.Unauthorized},
		{"identity token", []testreg.Option{testreg.WithBearer("joe", "pw")}, credentials.Credential{RefreshToken: "pw"}, 0},
		{"wrong identity token", []testreg.Option{testreg.WithBearer("joe", "pw")}, credentials.Credential{RefreshToken: "x"}, fserr.Unauthorized},
		{"wrong registry token", []testreg.Option{testreg.WithBearer("joe", "pw")}, credentials.Credential{AccessToken: "x"}, fserr.Unauthorized},
		{"token, redirects", []testreg.Option{testreg.WithBearer("joe", "pw"), testreg.WithRedirects()}, secret, 0},
		{"token of another scope", []testreg.Option{testreg.WithBearer("joe", "pw"), testreg.WithTokenScope("repository:proxy/x:pull")}, secret, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var who asked
			f := newFixture(t, registry.Options{Credentials: credentials.Func(who.get)}, tt.server...)
			who.set(f.Host(), tt.cred)
			err := f.readRange(bounded(t), 0, 100)
			if tt.kind != 0 {
				wantKind(t, err, tt.kind)
				if strings.Contains(err.Error(), "pw") {
					t.Errorf("the error tells the password: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			readWithoutAsking(t, f)
		})
	}
}

// readWithoutAsking reads with a token at hand.
func readWithoutAsking(t *testing.T, f *fixture) {
	t.Helper()
	f.ResetCounts()
	for i := range 3 {
		if err := f.readRange(bounded(t), i*1000, 100); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.Count(testreg.Match{}).Requests; n != 3 {
		t.Errorf("%d requests for 3 reads", n)
	}
}

func TestTokenIsRenewed(t *testing.T) {
	var who asked
	f := newFixture(t, registry.Options{Credentials: credentials.Func(who.get)}, testreg.WithBearer("joe", "pw"))
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	for range 3 {
		if err := f.readRange(bounded(t), 0, 100); err != nil {
			t.Fatal(err)
		}
		f.ExpireTokens()
	}
	if n := f.Count(testreg.Match{Path: "/token"}).Requests; n != 3 {
		t.Errorf("%d tokens, want 3", n)
	}
	// A password that changed is asked for when the old one fails, and only then.
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "old"})
	wantKind(t, f.readRange(bounded(t), 0, 100), fserr.Unauthorized)
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	if err := f.readRange(bounded(t), 0, 100); err != nil {
		t.Error(err)
	}
}

func TestTokenServerFails(t *testing.T) {
	token := testreg.Match{Path: "/token"}
	for _, tt := range []struct {
		name  string
		fault testreg.Fault
		kind  fserr.Kind // if it stays
	}{
		{"503", testreg.Status(503), fserr.Unavailable},
		{"429", testreg.TooMany(time.Second), fserr.Unavailable},
		{"reset", testreg.Reset(-1), fserr.Unavailable},
		{"stall", testreg.Stall(-1), fserr.Unavailable},
		{"401", testreg.Status(401), fserr.Unauthorized},
		{"400", testreg.Status(400), fserr.Unauthorized},
		{"404", testreg.NotFound(), fserr.Unauthorized},
		{"no JSON", func(x testreg.Exchange) { _, _ = x.W.Write([]byte("<html>")) }, fserr.Unauthorized},
		{"redirect to a file", testreg.Redirect("file:///etc/passwd"), fserr.Unauthorized},
		{"redirect loop", testreg.Redirect("/token"), fserr.Unauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := registry.Options{}
			if tt.name == "stall" {
				opts = impatient()
			}
			f := newFixture(t, opts, testreg.WithBearer("", ""))
			if tt.kind == fserr.Unavailable {
				f.On(token, tt.fault)
				if err := f.readRange(bounded(t), 0, 100); err != nil {
					t.Errorf("once: %v", err)
				}
				f.ExpireTokens()
			}
			if tt.name == "stall" {
				return
			}
			f.Always(token, tt.fault)
			wantKind(t, f.readRange(bounded(t), 0, 100), tt.kind)
		})
	}
}

// TestRealmElsewhere lets a host send us to addresses it has no business with.
func TestRealmElsewhere(t *testing.T) {
	var who asked
	f := newFixture(t, registry.Options{Credentials: credentials.Func(who.get)})
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	for _, realm := range []string{"http://169.254.169.254/token", "ftp://" + f.Host() + "/token", "http://0.0.0.0:1/"} {
		f.Heal()
		f.Always(f.match(), testreg.Status(401, "WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", realm)))
		wantKind(t, f.readRange(bounded(t), 0, 100), fserr.Unauthorized)
	}
	if len(who.log) != 0 {
		t.Errorf("credentials were looked up for %v", who.log)
	}
}

// TestCredentialsStayHome follows redirects and mirrors and looks at what each
// host was shown.
func TestCredentialsStayHome(t *testing.T) {
	var who asked
	upstream := []testreg.Option{testreg.WithBasic("joe", "pw"), testreg.WithRedirects()}
	f, m := mirrored(t, registry.Options{Credentials: credentials.Func(who.get)}, upstream, nil, "")
	configure(t, registry.Options{Hosts: f.hosts}, f.Host(), fmt.Sprintf(`
server = %q
header = { X-Secret = "s" }
[host.%q]
`, f.URL(), m.URL()))
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	m.Always(f.match(), testreg.Status(401, "WWW-Authenticate", `Basic realm="give me"`))
	f.blob = f.open(t)
	if err := f.readRange(bounded(t), 0, 100); err != nil {
		t.Fatal(err)
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("joe:pw"))
	last := f.Requests(testreg.Match{Registry: true})
	if q := last[len(last)-1]; q.Header.Get("Authorization") != basic || q.Header.Get("X-Secret") != "s" {
		t.Errorf("the registry itself was shown %v", q.Header)
	}
	stored := f.Requests(testreg.Match{Storage: true})
	if len(stored) != 1 {
		t.Fatalf("%d requests to storage", len(stored))
	}
	for _, q := range slices.Concat(stored, m.Requests(testreg.Match{})) {
		if q.Header.Get("Authorization") != "" || q.Header.Get("X-Secret") != "" {
			t.Errorf("%s was shown %v", q.Path, q.Header)
		}
	}
	if !slices.Contains(who.log, m.Host()+"/demo") {
		t.Errorf("credentials of the mirror were not looked up under its own name: %v", who.log)
	}
}

// TestRedirectBack has somebody else send us back to the registry: what is asked
// for then was not our idea.
func TestRedirectBack(t *testing.T) {
	var who asked
	f := newFixture(t, registry.Options{Credentials: credentials.Func(who.get)}, testreg.WithBasic("joe", "pw"), testreg.WithRedirects())
	who.set(f.Host(), credentials.Credential{Username: "joe", Password: "pw"})
	f.Always(testreg.Match{Storage: true}, testreg.Redirect(f.URL()+"/v2/demo/blobs/other"))
	wantKind(t, f.readRange(bounded(t), 0, 100), fserr.Unauthorized)
	for _, q := range f.Requests(testreg.Match{Path: "/blobs/other"}) {
		if q.Header.Get("Authorization") != "" {
			t.Error("credentials followed a redirect back")
		}
	}
}

func TestRedirectIsKeptUntilItExpires(t *testing.T) {
	f := newFixture(t, registry.Options{}, testreg.WithRedirects())
	read := func() {
		t.Helper()
		if err := f.readRange(bounded(t), 500, 1000); err != nil {
			t.Fatal(err)
		}
	}
	count := func() [2]int {
		defer f.ResetCounts()
		return [2]int{f.Count(testreg.Match{Registry: true}).Requests, f.Count(testreg.Match{Storage: true}).Requests}
	}
	read()
	read()
	if got := count(); got != [2]int{1, 2} {
		t.Errorf("two reads: requests to registry and storage %v", got)
	}
	f.ExpireRedirects()
	read()
	read()
	if got := count(); got != [2]int{1, 3} {
		t.Errorf("after the address expired: %v", got)
	}
	for _, status := range []int{400, 401, 404, 410, 500} {
		f.On(testreg.Match{Storage: true}, testreg.Status(status))
		read()
		if got := count(); got != [2]int{1, 2} {
			t.Errorf("after %d from storage: %v", status, got)
		}
	}
	f.On(testreg.Match{Storage: true}, testreg.Reset(-1))
	read()
	f.On(testreg.Match{Storage: true}, testreg.Reset(100))
	read()
	f.Always(testreg.Match{Storage: true}, testreg.Status(403))
	wantKind(t, f.readRange(bounded(t), 500, 1000), fserr.Unauthorized)
}

func TestBrokenProviderIsNotAnonymous(t *testing.T) {
	f := newFixture(t, registry.Options{Credentials: credentials.Func(func(context.Context, string, string) (credentials.Credential, error) {
		return credentials.Credential{}, errors.New("the keychain is locked")
	})}, testreg.WithBearer("", ""))
	err := f.readRange(bounded(t), 0, 100)
	wantKind(t, err, fserr.Unauthorized)
	if !strings.Contains(err.Error(), "the keychain is locked") {
		t.Errorf("the cause is lost: %v", err)
	}
}
