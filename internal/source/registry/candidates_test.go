package registry_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source/credentials"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// knows is a source with a list of candidates for every host.
type knows []credentials.Credential

func (k knows) Credentials(context.Context, string, string) ([]credentials.Credential, error) {
	return k, nil
}

// TestCandidates has several credentials for a repository, of which one is right.
func TestCandidates(t *testing.T) {
	right := credentials.Credential{Username: "joe", Password: "right"}
	wrong := func(i int) credentials.Credential {
		return credentials.Credential{Username: "joe", Password: fmt.Sprint("wrong", i)}
	}
	for name, server := range map[string]testreg.Option{"basic": testreg.WithBasic("joe", "right"), "bearer": testreg.WithBearer("joe", "right")} {
		for _, tt := range []struct {
			name string
			list knows
			kind fserr.Kind
		}{
			{"first", knows{right, wrong(1)}, 0},
			{"last", knows{wrong(1), wrong(2), right}, 0},
			{"after an identity token", knows{{RefreshToken: "stale"}, right}, 0},
			{"none of them", knows{wrong(1), wrong(2)}, fserr.Unauthorized},
			{"none", nil, fserr.Unauthorized},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				f := newFixture(t, registry.Options{Credentials: tt.list}, server)
				for range 2 {
					err := f.readRange(bounded(t), 0, 100)
					if tt.kind == 0 && err != nil {
						t.Fatal(err)
					}
					if tt.kind != 0 {
						wantKind(t, err, tt.kind)
						if strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "stale") {
							t.Errorf("the error tells a secret: %v", err)
						}
					}
				}
				if tt.kind == 0 {
					readWithoutAsking(t, f)
				}
			})
		}
	}
}

// TestCandidatesArePerRepository has credentials that are right for one repository of
// a host each, as pull secrets of several teams are.
func TestCandidatesArePerRepository(t *testing.T) {
	users := credentials.Func(func(_ context.Context, _, repository string) (credentials.Credential, error) {
		return credentials.Credential{Username: "joe", Password: "of " + repository}, nil
	})
	f := newFixture(t, registry.Options{Credentials: users}, testreg.WithBearer("joe", "of demo"))
	if err := f.readRange(bounded(t), 0, 100); err != nil {
		t.Fatal(err)
	}
	b, err := f.client.Blob(t.Context(), f.Ref("other", "v1"), f.desc)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.ReadRange(bounded(t), 0, make([]byte, 10)), fserr.Unauthorized)
	if err := f.readRange(bounded(t), 0, 100); err != nil {
		t.Errorf("the right repository afterwards: %v", err)
	}
}

// TestChallengeIsLearned counts the round trips of the first request to repositories
// of one host.
func TestChallengeIsLearned(t *testing.T) {
	secret := knows{{Username: "joe", Password: "pw"}}
	for _, tt := range []struct {
		name           string
		server         []testreg.Option
		first, further int
	}{
		{"open", nil, 1, 1},
		{"basic", []testreg.Option{testreg.WithBasic("joe", "pw")}, 2, 1},
		{"bearer", []testreg.Option{testreg.WithBearer("joe", "pw")}, 3, 2},
		// A host whose scope is not the repository's cannot be foreseen.
		{"scope of its own", []testreg.Option{testreg.WithBearer("joe", "pw"), testreg.WithTokenScope("repository:proxy/x:pull")}, 3, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, registry.Options{Credentials: secret}, tt.server...)
			for i := range 4 {
				f.ResetCounts()
				f.AddManifest(fmt.Sprint("repo", i), "v1", "application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2}`))
				if _, _, err := f.client.FetchManifest(bounded(t), f.Ref(fmt.Sprint("repo", i), "v1")); err != nil {
					t.Fatal(err)
				}
				want := tt.further
				if i == 0 {
					want = tt.first
				}
				if n := f.Count(testreg.Match{}).Requests; n != want {
					t.Errorf("repository %d took %d requests, want %d", i, n, want)
				}
			}
		})
	}
}

// TestWrongGuess lets a host change its mind after a challenge was learned.
func TestWrongGuess(t *testing.T) {
	for name, change := range map[string]func(f *fixture){
		"another token server": func(f *fixture) {
			f.On(testreg.Match{Path: "/token"}, testreg.NotFound())
		},
		"no token needed": func(f *fixture) {
			f.Always(testreg.Match{Path: "/token"}, testreg.Status(401))
			f.Always(testreg.Match{Path: "/blobs/"}, func(x testreg.Exchange) {
				_, _ = x.W.Write(f.data)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, registry.Options{Credentials: knows{{Username: "joe", Password: "pw"}}}, testreg.WithBearer("joe", "pw"))
			if err := f.readRange(bounded(t), 0, 100); err != nil {
				t.Fatal(err)
			}
			change(f)
			b, err := f.client.Blob(t.Context(), f.Ref("other", "v1"), f.desc)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.ReadRange(bounded(t), 0, make([]byte, 100)); err != nil {
				t.Error(err)
			}
		})
	}
}
