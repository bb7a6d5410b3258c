package credentials

import (
	"context"
	"fmt"
	"slices"
)

// MaxCandidates bounds the credentials that are tried for one repository.
const MaxCandidates = 16

// Credential is what a host may be shown. The zero value means anonymous.
type Credential struct {
	Username, Password string
	// RefreshToken, also called identity token, is exchanged for tokens.
	RefreshToken string
	// AccessToken, also called registry token, is sent as it is.
	AccessToken string
}

// Format implements fmt.Formatter: no verb prints a secret.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// String tells what kind of credential it is, and nothing of it.
func (c Credential) String() string {
	switch {
	case c.AccessToken != "":
		return "[registry token]"
	case c.RefreshToken != "":
		return "[identity token]"
	case c.Username != "" || c.Password != "":
		return "[password]"
	}
	return "[anonymous]"
}

// Source finds the credentials for a repository on a host, given with its port if
// it has one; best first, none if it knows none.
type Source interface {
	Credentials(ctx context.Context, host, repository string) ([]Credential, error)
}

// Func is a source that knows at most one.
type Func func(ctx context.Context, host, repository string) (Credential, error)

// Credentials implements [Source].
func (f Func) Credentials(ctx context.Context, host, repository string) ([]Credential, error) {
	c, err := f(ctx, host, repository)
	if err != nil || c == (Credential{}) {
		return nil, err
	}
	return []Credential{c}, nil
}

// Chain asks its sources one after the other, and gives what all of them know in
// that order. What a source says before one that fails is still good; with nothing
// else known the failure is the answer, as a source that is broken must not silently
// become anonymous access.
type Chain []Source

// Credentials implements [Source].
func (c Chain) Credentials(ctx context.Context, host, repository string) ([]Credential, error) {
	var out []Credential
	var failed error
	for _, s := range c {
		found, err := s.Credentials(ctx, host, repository)
		if err != nil && failed == nil {
			failed = err
		}
		for _, cred := range found {
			if cred != (Credential{}) && !slices.Contains(out, cred) && len(out) < MaxCandidates {
				out = append(out, cred)
			}
		}
	}
	if len(out) == 0 {
		return nil, failed
	}
	return out, nil
}
