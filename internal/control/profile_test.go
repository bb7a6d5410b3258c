package control_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

func (r *recorder) Profiles(context.Context) ([]control.Profile, error) {
	r.calls = append(r.calls, "profiles")
	return []control.Profile{{Manifest: "sha256:m", Runs: 3}}, r.err
}

func (r *recorder) Profile(_ context.Context, name string) (control.ProfileDetail, error) {
	r.calls = append(r.calls, "show "+name)
	return control.ProfileDetail{Profile: control.Profile{Runs: 4}, Files: []control.ProfileFile{{Path: "a", At: 5}}}, r.err
}

func (r *recorder) ExportProfile(_ context.Context, name, format string) (control.ProfileData, error) {
	r.calls = append(r.calls, "export "+name+" "+format)
	return control.ProfileData{Name: name, Format: format, Data: make([]byte, 1<<20)}, r.err
}

func (r *recorder) ImportProfile(_ context.Context, d control.ProfileData) (control.Profile, error) {
	r.calls = append(r.calls, len(d.Data))
	return control.Profile{Manifest: d.Name, Origin: d.Format}, r.err
}

func (r *recorder) RemoveProfile(_ context.Context, name string) error {
	r.calls = append(r.calls, "rm "+name)
	return r.err
}

func (r *recorder) PushProfile(_ context.Context, ref string) (control.PublishedProfile, error) {
	r.calls = append(r.calls, "push "+ref)
	return control.PublishedProfile{Digest: "sha256:p"}, r.err
}

func (r *recorder) PullProfile(_ context.Context, in control.ProfileRequest) (control.Profile, error) {
	r.calls = append(r.calls, in)
	return control.Profile{Manifest: "sha256:m"}, r.err
}

func TestProfileCallsArrive(t *testing.T) {
	r := &recorder{}
	c := serve(t, r)
	ctx := t.Context()
	if list, err := c.Profiles(ctx); err != nil || len(list) != 1 || list[0].Runs != 3 {
		t.Errorf("Profiles: %+v, %v", list, err)
	}
	if d, err := c.Profile(ctx, "a&b"); err != nil || d.Runs != 4 || len(d.Files) != 1 || d.Files[0].At != 5 {
		t.Errorf("Profile: %+v, %v", d, err)
	}
	data, err := c.ExportProfile(ctx, "a&b", "f=g")
	if err != nil || len(data.Data) != 1<<20 || data.Format != "f=g" {
		t.Errorf("ExportProfile: %d bytes of %q, %v", len(data.Data), data.Format, err)
	}
	if p, err := c.ImportProfile(ctx, data); err != nil || p.Manifest != "a&b" || p.Origin != "f=g" {
		t.Errorf("ImportProfile: %+v, %v", p, err)
	}
	if err := c.RemoveProfile(ctx, "a&b"); err != nil {
		t.Errorf("RemoveProfile: %v", err)
	}
	if p, err := c.PushProfile(ctx, "a&b"); err != nil || p.Digest != "sha256:p" {
		t.Errorf("PushProfile: %+v, %v", p, err)
	}
	in := control.ProfileRequest{Ref: "a&b", Digest: "sha256:p"}
	if p, err := c.PullProfile(ctx, in); err != nil || p.Manifest != "sha256:m" {
		t.Errorf("PullProfile: %+v, %v", p, err)
	}
	want := []any{"profiles", "show a&b", "export a&b f=g", 1 << 20, "rm a&b", "push a&b", in}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls that arrived:\n%s", diff)
	}
	if _, err := c.ImportProfile(ctx, control.ProfileData{Data: make([]byte, 16<<20)}); fserr.KindOf(err) != fserr.Invalid {
		t.Errorf("too much: %v", err)
	}
	r.err = fserr.Newf(fserr.NotExist, "profile", "x", "none")
	if err := c.RemoveProfile(ctx, "x"); fserr.KindOf(err) != fserr.NotExist {
		t.Errorf("an error came back as %v", err)
	}
}
