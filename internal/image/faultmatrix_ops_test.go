package image_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// operation is something that a node does with a registry. prepare brings it to where
// it asks the registry for what at matches, which run then has it do; run checks every
// byte it gets.
type operation struct {
	name     string
	profiles image.Profiles
	fill     bool
	// stream: bytes are known to be wrong when all of them are there, and fetched anew
	// when they are asked for again.
	stream bool
	// spared: what a registry cannot do it need not notice.
	spared  bool
	prepare func(t *testing.T, s *site, l *laboratory) (at []testreg.Match, run func(ctx context.Context) error)
}

// pushing are the requests that bring something to a registry.
func pushing() []testreg.Match {
	return []testreg.Match{{Path: "/blobs/uploads/"}, {Method: "PUT", Path: "/manifests/"}}
}

func digestAt(added testreg.Added) []testreg.Match {
	return []testreg.Match{{Digest: added.Layers[0].Digest}}
}

// readAll attaches an image and compares all its files.
func (s *site) readAll(ctx context.Context, l *laboratory, ref string) error {
	tr, release, err := l.Open(ctx, "image/"+ref)
	if err != nil {
		return err
	}
	defer release()
	return s.compare(ctx, tr)
}

func (s *site) compare(ctx context.Context, tr image.Tree) error {
	for path, want := range s.want {
		got, err := readFile(ctx, tr, path)
		if err != nil {
			return err
		}
		if got != want {
			return errWrongByte
		}
	}
	return nil
}

// errWrongByte is what must never come out.
var errWrongByte = errors.New("a wrong byte")

// errVerdict is that of a verification, which says itself what is wrong.
var errVerdict = errors.New("the verdict is bad")

func operations() []operation {
	return slices.Concat(readingOperations(), besideOperations(), copyingOperations())
}

func readingOperations() []operation {
	return []operation{
		{name: "resolve", prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return []testreg.Match{{Path: "/manifests/"}}, func(ctx context.Context) error {
				img, err := l.src.Resolve(ctx, s.ref(), ocispec.Platform{OS: "linux", Architecture: "amd64"})
				if err == nil && img.Digest != s.lazy.Descriptor.Digest {
					return errWrongByte
				}
				return err
			}
		}},
		{name: "attach", prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return digestAt(s.lazy), func(ctx context.Context) error {
				_, release, err := l.Open(ctx, "image/"+s.ref())
				if err == nil {
					release()
				}
				return err
			}
		}},
		{name: "demand read", prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			tr := l.tree(t, "image/"+s.ref())
			return digestAt(s.lazy), func(ctx context.Context) error { return s.compare(ctx, tr) }
		}},
		{name: "read of a whole layer", stream: true, prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return digestAt(s.plain), func(ctx context.Context) error { return s.readAll(ctx, l, s.Ref("team/app", "plain")) }
		}},
		{name: "profile applied", profiles: image.Profiles{Use: true}, prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			if _, err := l.ImportProfile(t.Context(), s.profile, "test"); err != nil {
				t.Fatal(err)
			}
			return digestAt(s.lazy), func(ctx context.Context) error { return s.readAll(ctx, l, s.ref()) }
		}},
		{name: "background", fill: true, prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			l.tree(t, "image/"+s.ref())
			return digestAt(s.lazy), func(ctx context.Context) error {
				l.begin()
				// Someone else attaches, which is another reason to try.
				_, release, err := l.Open(ctx, "image/"+s.ref())
				if err != nil {
					return err
				}
				release()
				return s.filled(ctx, l)
			}
		}},
		{name: "verify", stream: true, prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return digestAt(s.lazy), func(ctx context.Context) error {
				v, err := image.Verify(ctx, l.src, s.ref(), source.Selection{}, nil)
				if err == nil && !v[0].OK {
					return errVerdict
				}
				return err
			}
		}},
	}
}

func besideOperations() []operation {
	withProfile := func(t *testing.T, s *site, l *laboratory) {
		if _, err := l.ImportProfile(t.Context(), s.profile, "test"); err != nil {
			t.Fatal(err)
		}
	}
	return []operation{
		{name: "referrers", spared: true, prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return []testreg.Match{{Path: "/referrers/"}}, func(ctx context.Context) error {
				_, _, err := l.src.Registry.(source.Referrers).Referrers(ctx, s.ref(), s.lazy.Descriptor.Digest)
				return err
			}
		}},
		{name: "profile push", prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			withProfile(t, s, l)
			return pushing(), func(ctx context.Context) error {
				out, err := l.PushProfile(ctx, s.ref())
				if err == nil {
					return s.holds(out.Digest)
				}
				return err
			}
		}},
		{name: "profile pull", prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			other := s.open(t, patience, image.Profiles{}, false)
			withProfile(t, s, other)
			if _, err := other.PushProfile(t.Context(), s.ref()); err != nil {
				t.Fatal(err)
			}
			return []testreg.Match{{Path: "/referrers/"}, {Digest: digest.FromBytes(s.profile)}}, func(ctx context.Context) error {
				if _, err := l.PullProfile(ctx, s.ref(), ""); err != nil {
					return err
				}
				p, _, err := l.Profile(ctx, s.ref())
				if err != nil {
					return err
				}
				if got, err := profile.Encode(p); err != nil || string(got) != string(s.profile) {
					return errors.Join(errWrongByte, err)
				}
				return nil
			}
		}},
		{name: "index push", prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return pushing(), func(ctx context.Context) error {
				out, err := l.Publish(ctx, s.Ref("team/app", "plain"))
				if err == nil {
					return s.holds(out.Digest)
				}
				return err
			}
		}},
		{name: "index pull", prepare: func(t *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			out, err := s.open(t, patience, image.Profiles{}, false).Publish(t.Context(), s.Ref("team/app", "plain"))
			if err != nil {
				t.Fatal(err)
			}
			pulled := false
			return []testreg.Match{{Path: "/referrers/"}, {Digest: digest.Digest(out.Digest)}}, func(ctx context.Context) error {
				if !pulled {
					if _, err := l.PullIndex(ctx, s.Ref("team/app", "plain"), out.Digest); err != nil {
						return err
					}
					pulled = true
				}
				return s.readAll(ctx, l, s.Ref("team/app", "plain"))
			}
		}},
	}
}

func copyingOperations() []operation {
	convertIt := func(s *site, l *laboratory) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			res, err := convert.Convert(ctx, l.src, s.Ref("team/app", "plain"), l.src, s.Ref("team/app", "new"), convert.Options{})
			if err != nil {
				return err
			}
			if err := s.holds(res.Digest.String()); err != nil {
				return err
			}
			return s.readAll(ctx, l, s.Ref("team/app", res.Digest.String()))
		}
	}
	return []operation{
		{name: "conversion, read", stream: true, prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return digestAt(s.plain), convertIt(s, l)
		}},
		{name: "conversion, push", prepare: func(_ *testing.T, s *site, l *laboratory) ([]testreg.Match, func(context.Context) error) {
			return pushing(), convertIt(s, l)
		}},
	}
}

// holds looks for a manifest that was pushed, and all that it names.
func (s *site) holds(d string) error {
	_, data, ok := s.Manifest("team/app", d)
	if !ok || digest.FromBytes(data).String() != d {
		return errWrongByte
	}
	return nil
}

// filled waits for what comes of reading the image in the background.
func (s *site) filled(ctx context.Context, l *laboratory) error {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		i := slices.IndexFunc(l.Layers(), func(x image.LayerInfo) bool { return x.Digest == s.lazy.Layers[0].Digest.String() })
		if i < 0 {
			continue
		}
		switch info := l.Layers()[i].Fill; {
		case info.State == image.FillVerified:
			return nil
		case info.State == image.FillPoisoned:
			return errors.Join(errWrongByte, errors.New(info.Reason))
		case info.Reason != "":
			return fserr.New(fserr.Unavailable, "fill", "", errors.New(info.Reason))
		}
	}
	return ctx.Err()
}
