package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/source/sourcetest"
	"github.com/nineply/nineply/internal/testreg"
)

const blobSize = 400_000

// fixture is a registry with one blob, and a client for it.
type fixture struct {
	*testreg.Registry
	client *registry.Registry
	data   []byte
	desc   ocispec.Descriptor
	blob   source.Blob
	hosts  hosts.Config
}

func newFixture(t *testing.T, opts registry.Options, regOpts ...testreg.Option) *fixture {
	t.Helper()
	f := &fixture{Registry: testreg.New(t, regOpts...), data: sourcetest.Bytes(1, blobSize)}
	f.client = open(t, opts)
	f.desc = f.AddBlob(f.data)
	f.blob = f.open(t)
	return f
}

func (f *fixture) open(t *testing.T) source.Blob {
	t.Helper()
	b, err := f.client.Blob(t.Context(), f.Ref("demo", "v1"), f.desc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *fixture) match() testreg.Match { return testreg.Match{Digest: f.desc.Digest} }

// bounded gives a context that ends a test which would hang.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (f *fixture) readRange(ctx context.Context, off, n int) error {
	p := make([]byte, n)
	if err := f.blob.ReadRange(ctx, int64(off), p); err != nil {
		return err
	}
	if !bytes.Equal(p, f.data[off:off+n]) {
		return fmt.Errorf("wrong bytes in range [%d,+%d)", off, n)
	}
	return nil
}

func (f *fixture) readVerified(ctx context.Context, off, n int) error {
	return source.ReadVerified(ctx, f.blob, int64(off), make([]byte, n), func(p []byte) error {
		if !bytes.Equal(p, f.data[off:off+n]) {
			return errors.New("wrong bytes")
		}
		return nil
	})
}

func (f *fixture) readStream(ctx context.Context, off int) error {
	rc, err := f.blob.Stream(ctx, int64(off))
	return f.compare(rc, err, f.data[off:])
}

func (f *fixture) readPart(ctx context.Context, off, n int) error {
	rc, err := f.blob.OpenRange(ctx, int64(off), int64(n))
	return f.compare(rc, err, f.data[off:off+n])
}

func (f *fixture) compare(rc io.ReadCloser, err error, want []byte) error {
	if err != nil {
		return err
	}
	data, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return err
	}
	if !bytes.Equal(data, want) {
		return errors.New("wrong bytes")
	}
	return nil
}

func wantKind(t *testing.T, err error, kind fserr.Kind) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want kind %v", kind)
	}
	if got := fserr.KindOf(err); got != kind {
		t.Fatalf("kind %v, want %v: %v", got, kind, err)
	}
}

// impatient makes stalls short, and forgives those of a machine under load.
func impatient() registry.Options {
	return registry.Options{StallTimeout: 300 * time.Millisecond, Attempts: 20}
}

// TestFaultsThatPass answers badly once, twice or thrice, then properly.
func TestFaultsThatPass(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults []testreg.Fault
	}{
		{"500", testreg.Times(3, testreg.Status(500))},
		{"502, 503, 504", []testreg.Fault{testreg.Status(502), testreg.Status(503), testreg.Status(504)}},
		{"408", []testreg.Fault{testreg.Status(408)}},
		{"429", testreg.Times(2, testreg.TooMany(time.Second))},
		{"200 for a range", []testreg.Fault{testreg.IgnoreRange()}},
		{"short body", []testreg.Fault{testreg.ShortBody(1000)}},
		{"empty body", []testreg.Fault{testreg.ShortBody(0)}},
		{"short range", testreg.Times(4, testreg.ShortRange(70_000))},
		{"tiny ranges", testreg.Times(4, testreg.ShortRange(7))},
		{"long body", []testreg.Fault{testreg.LongBody(3)}},
		{"shifted", []testreg.Fault{testreg.Shift(5)}},
		{"no Content-Range", []testreg.Fault{testreg.ContentRange("")}},
		{"other Content-Range", []testreg.Fault{testreg.ContentRange(fmt.Sprintf("bytes 7-9/%d", blobSize))}},
		{"nonsense Content-Range", []testreg.Fault{testreg.ContentRange("bytes=0-99/100")}},
		{"connection closed at once", testreg.Times(2, testreg.Reset(-1))},
		{"connection closed after the header", testreg.Times(2, testreg.Reset(0))},
		{"connection closed in the body", testreg.Times(3, testreg.Reset(30_000))},
		{"stall before the header", []testreg.Fault{testreg.Stall(-1)}},
		{"stall in the body", []testreg.Fault{testreg.Stall(20_000)}},
		{"stall among others", []testreg.Fault{testreg.Reset(10), testreg.Status(503), testreg.ShortBody(99), testreg.Stall(5), testreg.Shift(1)}},
	} {
		for _, tls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls=%v", tt.name, tls), func(t *testing.T) {
				if tls && testing.Short() {
					t.Skip("the plain one is quicker")
				}
				var opts registry.Options
				if strings.Contains(tt.name, "stall") {
					opts = impatient()
				}
				readThrough(t, secureFixture(t, opts, tls), tt.faults)
			})
		}
	}
}

// readThrough reads in every way while the faults last, and once afterwards.
func readThrough(t *testing.T, f *fixture, faults []testreg.Fault) {
	t.Helper()
	for _, way := range []struct {
		name string
		read func() error
	}{
		{"range", func() error { return f.readRange(bounded(t), 12_345, 150_000) }},
		{"stream", func() error { return f.readStream(bounded(t), 54_321) }},
		{"part of the stream", func() error { return f.readPart(bounded(t), 54_321, 200_000) }},
	} {
		f.Heal()
		f.On(f.match(), faults...)
		if err := way.read(); err != nil {
			t.Errorf("%s: %v", way.name, err)
		}
	}
	f.Heal()
	if err := f.readRange(bounded(t), 0, blobSize); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestFaultsThatStay answers badly for ever.
func TestFaultsThatStay(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault testreg.Fault
		kind  fserr.Kind
		text  string
	}{
		{"404", testreg.NotFound(), fserr.NotExist, "404"},
		{"410", testreg.Status(410), fserr.NotExist, "410"},
		{"401 without challenge", testreg.Status(401), fserr.Unauthorized, "401"},
		{"401 with unknown challenge", testreg.Status(401, "WWW-Authenticate", "Negotiate"), fserr.Unauthorized, "401"},
		{"401 with a broken challenge", testreg.Status(401, "WWW-Authenticate", `Bearer realm="`), fserr.Unauthorized, ""},
		{"401 with a realm that is no address", testreg.Status(401, "WWW-Authenticate", `Bearer realm="file:///etc/passwd"`), fserr.Unauthorized, "realm"},
		{"basic without credentials", testreg.Status(401, "WWW-Authenticate", `Basic realm="x"`), fserr.Unauthorized, "none are known"},
		{"403", testreg.Status(403), fserr.Unauthorized, "403 Forbidden: UNKNOWN scripted answer; check the credentials for 127.0.0.1"},
		{"416", testreg.Status(416), fserr.Corrupt, "416"},
		{"429", testreg.TooMany(2 * time.Second), fserr.Unavailable, "429"},
		{"500", testreg.Status(500), fserr.Unavailable, "500 Internal Server Error: UNKNOWN scripted answer"},
		{"501", testreg.Status(501), fserr.Unsupported, "501"},
		{"400", testreg.Status(400), fserr.Invalid, "400"},
		{"204", testreg.Status(204), fserr.Unavailable, "204"},
		{"short body", testreg.ShortBody(0), fserr.Corrupt, "body of 0 bytes"},
		{"drip", testreg.ShortRange(1), fserr.Unavailable, "again and again"},
		{"long body", testreg.LongBody(1), fserr.Corrupt, "body"},
		{"shifted", testreg.Shift(1), fserr.Corrupt, "Content-Range"},
		{"wrong total", testreg.ContentRange("bytes 100000-100099/500000"), fserr.Corrupt, "500000 bytes there, not 400000; something between here and"},
		{"no Content-Range", testreg.ContentRange(""), fserr.Corrupt, "Content-Range"},
		{"range ignored", testreg.IgnoreRange(), fserr.Unsupported, "ignores range requests"},
		{"reset", testreg.Reset(-1), fserr.Unavailable, ""},
		{"stall", testreg.Stall(-1), fserr.Unavailable, "stall"},
		{"redirect loop", testreg.Redirect("/v2/demo/blobs/again"), fserr.Unavailable, "redirects"},
		{"redirect to a file", testreg.Redirect("file:///etc/passwd"), fserr.Unavailable, "not http"},
		{"redirect to nowhere", testreg.Redirect("http://127.0.0.1:1/x?signature=secret"), fserr.Unavailable, "refused"},
		{"redirect without location", testreg.Status(307), fserr.Unavailable, "location"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := registry.Options{ReadThrough: 50_000}
			if tt.name == "stall" {
				opts.StallTimeout = 50 * time.Millisecond
			}
			f := newFixture(t, opts)
			f.Always(testreg.Match{Path: "/blobs/"}, tt.fault)
			err := f.readRange(bounded(t), 100_000, 100)
			wantKind(t, err, tt.kind)
			for _, text := range []string{tt.text, f.Ref("demo", "v1"), f.desc.Digest.String(), f.Host()} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error lacks %q: %v", text, err)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a signature: %v", err)
			}
		})
	}
}

func TestBodyWithoutLengthThatIsTooLong(t *testing.T) {
	f := newFixture(t, registry.Options{})
	f.On(f.match(), testreg.LongChunked(3))
	if err := f.readRange(bounded(t), 10, 1000); err != nil {
		t.Error(err)
	}
	for _, off := range []int{0, 10} {
		f.On(f.match(), testreg.LongChunked(3))
		wantKind(t, f.readStream(bounded(t), off), fserr.Corrupt)
	}
}

func TestStallEndsWithTheContext(t *testing.T) {
	for _, after := range []int{-1, 0, 1000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			f := newFixture(t, registry.Options{StallTimeout: time.Hour})
			stalled := make(chan struct{}, 16)
			stall := testreg.Stall(after)
			f.Always(f.match(), func(x testreg.Exchange) {
				stalled <- struct{}{}
				stall(x)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			wantKind(t, f.readRange(ctx, 0, 5000), fserr.Unavailable)
			wantKind(t, f.readStream(ctx, 0), fserr.Unavailable)
			for len(stalled) > 0 {
				<-stalled
			}
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- f.readRange(ctx, 0, 5000) }()
			<-stalled
			cancel()
			wantKind(t, <-done, fserr.Canceled)
		})
	}
}

// TestStallsAreCounted has a host stall in every body, after a few bytes.
func TestStallsAreCounted(t *testing.T) {
	f := newFixture(t, registry.Options{StallTimeout: 20 * time.Millisecond, Attempts: 2})
	f.Always(f.match(), testreg.Stall(100))
	wantKind(t, f.readRange(bounded(t), 0, 50_000), fserr.Unavailable)
	if n := f.Count(f.match()).Requests; n > 4 { // one for each round, and perhaps a second beside it
		t.Errorf("%d requests for a range", n)
	}
	f.ResetCounts()
	wantKind(t, f.readStream(bounded(t), 0), fserr.Unavailable)
	if n := f.Count(f.match()).Requests; n > 8 {
		t.Errorf("%d requests for a stream", n)
	}
}

func TestServerEndsDuringStall(t *testing.T) {
	f := newFixture(t, registry.Options{StallTimeout: time.Hour, Attempts: 2})
	stalled := make(chan struct{}, 8)
	// So little at a time that the requests which still reach a server that is about
	// to end do not bring all of it.
	stall := testreg.Stall(100)
	f.Always(f.match(), func(x testreg.Exchange) {
		select {
		case stalled <- struct{}{}:
		default:
		}
		stall(x)
	})
	done := make(chan error, 1)
	go func() { done <- f.readRange(bounded(t), 0, 5000) }()
	<-stalled
	f.Close()
	wantKind(t, <-done, fserr.Unavailable)
}

func TestResumesWhereItBroke(t *testing.T) {
	f := newFixture(t, registry.Options{})
	f.On(f.match(), testreg.ShortRange(100_000), testreg.Reset(80_000))
	if err := f.readRange(bounded(t), 1000, 300_000); err != nil {
		t.Fatal(err)
	}
	qs := f.Requests(f.match())
	if len(qs) != 3 {
		t.Fatalf("%d requests, want 3", len(qs))
	}
	starts := make([]int, len(qs))
	for i, q := range qs {
		var end int
		if _, err := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-%d", &starts[i], &end); err != nil || end != 300_999 {
			t.Errorf("request %d asks for %q", i, q.Header.Get("Range"))
		}
	}
	if starts[0] != 1000 || starts[1] != 101_000 || starts[2] <= 101_000 {
		t.Errorf("requests start at %v", starts)
	}
}

func TestStreamGoesOnForLongAsItAdvances(t *testing.T) {
	f := newFixture(t, registry.Options{Attempts: 1})
	// More breaks than would be forgiven without progress.
	f.data = sourcetest.Bytes(2, 40*70_000)
	f.desc = f.AddBlob(f.data)
	f.blob = f.open(t)
	f.Always(f.match(), testreg.Reset(70_000))
	if err := f.readStream(bounded(t), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.readRange(bounded(t), 5, len(f.data)-5); err != nil {
		t.Fatal(err)
	}
}

func TestRetryAfter(t *testing.T) {
	var waits []time.Duration
	opts := registry.Options{Sleep: func(ctx context.Context, d time.Duration) error {
		waits = append(waits, d)
		return ctx.Err()
	}}
	at := func(d time.Duration) testreg.Fault {
		now := time.Now().UTC().Truncate(time.Second)
		return testreg.Status(503, "Date", now.Format(time.RFC1123), "Retry-After", strings.Replace(now.Add(d).Format(time.RFC1123), "UTC", "GMT", 1))
	}
	f := newFixture(t, opts)
	f.On(f.match(), testreg.TooMany(7*time.Second), testreg.Status(503, "Retry-After", "soon"), at(30*time.Second))
	if err := f.readRange(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if len(waits) != 3 || waits[0] != 7*time.Second || waits[1] > 5*time.Second || waits[2] < 20*time.Second || waits[2] > 31*time.Second {
		t.Errorf("waited %v", waits)
	}
	waits = nil
	f.Always(f.match(), testreg.TooMany(2*time.Hour))
	wantKind(t, f.readRange(t.Context(), 0, 100), fserr.Unavailable)
	f.Heal()
	f.Always(f.match(), testreg.TooMany(50*time.Second))
	wantKind(t, f.readRange(bounded(t), 0, 100), fserr.Unavailable) // the context ends sooner
	if len(waits) != 0 {
		t.Errorf("waited %v in vain", waits)
	}
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	var waits []time.Duration
	f := newFixture(t, registry.Options{
		Attempts: 8, BackoffInitial: 100 * time.Millisecond, BackoffMax: time.Second,
		Sleep: func(ctx context.Context, d time.Duration) error {
			waits = append(waits, d)
			return ctx.Err()
		},
	})
	f.Always(f.match(), testreg.Status(503))
	wantKind(t, f.readRange(t.Context(), 0, 100), fserr.Unavailable)
	if len(waits) != 7 || waits[0] > 200*time.Millisecond || slices.Max(waits) > 2*time.Second || slices.Max(waits) < 400*time.Millisecond {
		t.Errorf("waited %v", waits)
	}
	if n := f.Count(f.match()).Requests; n != 8 {
		t.Errorf("%d requests, want 8", n)
	}
}

func TestHostThatIgnoresRanges(t *testing.T) {
	f := newFixture(t, registry.Options{ReadThrough: 200_000})
	f.Always(f.match(), testreg.IgnoreRange())
	for _, r := range [][2]int{{0, 100}, {50_000, 100_000}, {0, blobSize}, {199_000, 1000}} {
		if err := f.readRange(bounded(t), r[0], r[1]); err != nil {
			t.Errorf("range %v: %v", r, err)
		}
	}
	f.ResetCounts()
	for range 3 {
		wantKind(t, f.readRange(bounded(t), 300_000, 1000), fserr.Unsupported)
	}
	if n := f.Count(f.match()).Requests; n != 0 {
		t.Errorf("%d requests to a host known to ignore ranges", n)
	}
	if err := f.readStream(bounded(t), 0); err != nil {
		t.Errorf("stream: %v", err)
	}
	if err := f.readStream(bounded(t), 300_000); err != nil {
		t.Errorf("stream from the middle: %v", err)
	}
	if err := f.readPart(bounded(t), 100_000, 50_000); err != nil {
		t.Errorf("part of the stream: %v", err)
	}
	wantKind(t, f.readPart(bounded(t), 300_000, 1000), fserr.Unsupported)
}

func TestNoRequestBeforeTheFirstRead(t *testing.T) {
	f := newFixture(t, registry.Options{})
	if n := f.Count(testreg.Match{}).Requests; n != 0 {
		t.Errorf("%d requests to open a blob of known size", n)
	}
	if err := f.readRange(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	if got := f.Count(testreg.Match{}); got.Requests != 1 || got.Bytes != 100 {
		t.Errorf("one range took %+v", got)
	}
	stats := f.client.Stats()[f.Host()]
	if stats.Requests != 1 || stats.Bytes != 100 || stats.Failures != 0 {
		t.Errorf("Stats = %+v", stats)
	}
}

func TestSizeWithoutHead(t *testing.T) {
	f := newFixture(t, registry.Options{}, testreg.WithoutHeadSize())
	f.desc.Size = 0
	f.blob = f.open(t)
	if f.blob.Size() != blobSize {
		t.Errorf("Size = %d", f.blob.Size())
	}
	if err := f.readRange(t.Context(), 1, 100); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, tls := range []bool{false, true} {
		f := secureFixture(t, registry.Options{}, tls)
		peers := map[string]bool{}
		f.Always(f.match(), func(x testreg.Exchange) {
			peers[x.R.RemoteAddr] = true
			x.Serve(x.W, x.R)
		})
		for i := range 20 {
			if err := f.readRange(t.Context(), i*100, 100); err != nil {
				t.Fatal(err)
			}
		}
		if len(peers) != 1 {
			t.Errorf("tls=%v: %d connections for reads one after the other", tls, len(peers))
		}
	}
}

func TestClosed(t *testing.T) {
	f := newFixture(t, registry.Options{})
	if err := f.client.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, f.readRange(t.Context(), 0, 1), fserr.Closed)
}
