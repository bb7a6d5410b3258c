package layout_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
)

// packer pushes to an archive and commits, as a conversion does.
type packer struct {
	t *testing.T
	source.Pusher
}

func pack(t *testing.T, ref string) packer {
	t.Helper()
	p, err := layout.New().Pusher(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return packer{t, p}
}

func (p packer) blob(text string) ocispec.Descriptor {
	p.t.Helper()
	desc := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromString(text), Size: int64(len(text))}
	if err := p.PushBlob(p.t.Context(), desc, content(text)); err != nil {
		p.t.Fatal(err)
	}
	return desc
}

func content(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
}

func (p packer) tag(name, text string) {
	p.t.Helper()
	if _, err := p.PushManifest(p.t.Context(), name, ocispec.MediaTypeImageManifest, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p packer) finish(commit bool) {
	p.t.Helper()
	if commit {
		if err := p.Pusher.(source.Committer).Commit(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.Pusher.(source.Unpinner).Close(); err != nil {
		p.t.Fatal(err)
	}
}

func read(t *testing.T, ref string) (string, error) {
	t.Helper()
	_, data, err := layout.New().FetchManifest(t.Context(), ref)
	return string(data), err
}

const aManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[],"annotations":{"n":"`

func TestPack(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	ref := "oci-archive:" + file
	p := pack(t, ref+":v1")
	desc := p.blob("one")
	p.blob("one") // twice is once
	p.tag("v1", aManifest+`1"}}`)
	p.tag(ref+":other", aManifest+`o"}}`)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there before it was complete: %v", err)
	}
	p.finish(true)
	for tag, want := range map[string]string{"v1": aManifest + `1"}}`, "other": aManifest + `o"}}`} {
		if got, err := read(t, ref+":"+tag); err != nil || got != want {
			t.Errorf("%s: %q, %v", tag, got, err)
		}
	}
	b, err := layout.New().Blob(t.Context(), ref, desc)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if err := b.ReadRange(t.Context(), 0, got); err != nil || string(got) != "one" {
		t.Errorf("%q, %v", got, err)
	}
	out, err := exec.CommandContext(t.Context(), "tar", "-tf", file).CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 5 {
		t.Errorf("tar: %s, %v", out, err)
	}
}

func TestPackKeepsWhatWasThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tar")
	ref := "oci-archive:" + file
	p := pack(t, ref)
	p.blob("one")
	p.tag("v1", aManifest+`1"}}`)
	p.tag("moved", aManifest+`1"}}`)
	p.finish(true)

	p = pack(t, ref)
	p.blob("one")
	p.blob("two")
	p.tag("v2", aManifest+`2"}}`)
	p.tag("moved", aManifest+`2"}}`)
	p.finish(true)
	for tag, n := range map[string]string{"v1": "1", "v2": "2", "moved": "2"} {
		if got, err := read(t, ref+":"+tag); err != nil || got != aManifest+n+`"}}` {
			t.Errorf("%s: %q, %v", tag, got, err)
		}
	}
}

func TestPackWithoutCommitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	p := pack(t, "oci-archive:"+file)
	p.blob("one")
	p.tag("v1", aManifest+`1"}}`)
	p.finish(false)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := p.PushBlob(t.Context(), ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}, content("x")); !fserr.Is(err, fserr.Closed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPackGoesOnAfterABlobThatFailed(t *testing.T) {
	ref := "oci-archive:" + filepath.Join(t.TempDir(), "a.tar")
	p := pack(t, ref)
	desc := ocispec.Descriptor{Digest: digest.FromString("right"), Size: 5}
	if err := p.PushBlob(t.Context(), desc, content("wrong")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("wrong content: %v", err)
	}
	if err := p.PushBlob(t.Context(), desc, content("ri")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("short content: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.PushBlob(ctx, desc, content("right")); !fserr.Is(err, fserr.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	p.blob("right")
	p.tag("v1", aManifest+`1"}}`)
	p.finish(true)
	b, err := layout.New().Blob(t.Context(), ref, desc)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if err := b.ReadRange(t.Context(), 0, got); err != nil || string(got) != "right" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPackRefuses(t *testing.T) {
	dir := t.TempDir()
	noTar := filepath.Join(dir, "x")
	if err := os.WriteFile(noTar, []byte(strings.Repeat("no tar ", 200)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := layout.New().Pusher(t.Context(), "oci-archive:"+noTar); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("no archive there: %v", err)
	}
	if _, err := layout.New().Pusher(t.Context(), "oci-archive:"+filepath.Join(dir, "missing", "a.tar")); !fserr.Is(err, fserr.NotExist) && !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("no directory: %v", err)
	}
	p := pack(t, "oci-archive:"+filepath.Join(dir, "a.tar"))
	defer p.finish(false)
	for _, target := range []string{"oci-archive:/elsewhere:v1", "oci:" + dir + "/a.tar:v1", "no tag"} {
		if _, err := p.PushManifest(t.Context(), target, ocispec.MediaTypeImageManifest, []byte("{}")); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestUntag(t *testing.T) {
	ref := "oci:" + filepath.Join(t.TempDir(), "dir")
	p := pack(t, ref)
	p.tag("v1", aManifest+`1"}}`)
	p.tag("v2", aManifest+`2"}}`)
	for range 2 {
		if err := p.Pusher.(source.Untagger).Untag(t.Context(), ref+":v1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(t, ref+":v1"); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("v1: %v", err)
	}
	if _, err := read(t, ref+":v2"); err != nil {
		t.Error(err)
	}
}
