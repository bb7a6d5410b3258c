package registry

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

// slowBody gives a byte for each read, after a pause.
type slowBody struct {
	pause time.Duration
	stop  <-chan struct{}
}

func (b slowBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(b.pause):
		return copy(p, "x"), nil
	case <-b.stop:
		return 0, io.ErrUnexpectedEOF
	}
}

func (slowBody) Close() error { return nil }

// known makes a link of which enough is known: late answers take 40 ms, and 50 MB come
// in a second, so that a body alone lags behind after 328 ms.
func known(l *link) {
	for range enoughAnswers {
		l.answered(time.Now(), 20*time.Millisecond)
	}
	l.rate = 50 << 20
	l.hedges = 1
}

func TestBodyFallsBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		pause  time.Duration // between bytes
		others int           // bodies beside it
		hedges float64       // that may be made
		from   time.Duration // when it is given up, at the earliest and latest
		to     time.Duration
		kind   error
	}{
		"nothing comes":          {time.Hour, 0, 1, 300 * time.Millisecond, 350 * time.Millisecond, errBehind},
		"little comes":           {10 * time.Millisecond, 0, 1, 300 * time.Millisecond, 350 * time.Millisecond, errBehind},
		"others take the rate":   {time.Hour, 9, 1, 1700 * time.Millisecond, 1800 * time.Millisecond, errBehind},
		"no more second request": {time.Hour, 0, 0, 30 * time.Second, 31 * time.Second, errStalled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink()
				known(l)
				l.hedges = tt.hedges
				ctx, w := newWatch(t.Context(), 30*time.Second)
				counter := new(source.HostCounter)
				b := newWatchedBody(slowBody{tt.pause, ctx.Done()}, w, l, counter)
				for range tt.others {
					l.began(time.Now())
				}
				began := time.Now()
				var err error
				for p := make([]byte, 10); err == nil; {
					_, err = b.Read(p)
				}
				if !errors.Is(asFailure(err).err, tt.kind) {
					t.Errorf("%v, want %v", err, tt.kind)
				}
				if took := time.Since(began); took < tt.from || took > tt.to {
					t.Errorf("given up after %v", took)
				}
				if n := counter.Hedges.Load(); n != int64(tt.hedges) {
					t.Errorf("%d second requests", n)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestReaderWhoTakesTimeIsNotBehind has the time between reads not count.
func TestReaderWhoTakesTimeIsNotBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		known(l)
		ctx, w := newWatch(t.Context(), 30*time.Second)
		b := newWatchedBody(slowBody{time.Millisecond, ctx.Done()}, w, l, new(source.HostCounter))
		for range 100 {
			if _, err := b.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBodyThatStallsIsAskedForAnew has bodies stop in the middle, on a host that never
// took so long.
func TestBodyThatStallsIsAskedForAnew(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for name, read := range map[string]func(b source.Blob) ([]byte, error){
		"stream": func(b source.Blob) ([]byte, error) {
			body, err := b.OpenRange(t.Context(), 100, int64(len(data))-200)
			if err != nil {
				return nil, err
			}
			got, err := io.ReadAll(body)
			if cerr := body.Close(); err == nil {
				err = cerr
			}
			return got, err
		},
		"range": func(b source.Blob) ([]byte, error) {
			p := make([]byte, len(data)-200)
			return p, b.ReadRange(t.Context(), 100, p)
		},
	} {
		for _, sent := range []int{0, 1000, 200_000} {
			reg := testreg.New(t)
			r := New(Options{StallTimeout: time.Hour, Attempts: 1})
			closeAtEnd(t, r)
			desc := reg.AddBlob(data)
			b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), desc)
			if err != nil {
				t.Fatal(err)
			}
			known(r.links.of(reg.Host()))
			reg.On(testreg.Match{Digest: desc.Digest}, testreg.Stall(sent))
			got, err := read(b)
			if err != nil || !bytes.Equal(got, data[100:len(data)-100]) {
				t.Errorf("%s, stalled after %d bytes: %d bytes, %v", name, sent, len(got), err)
			}
			if n := reg.Count(testreg.Match{Digest: desc.Digest}).Requests; n != 2 {
				t.Errorf("%s, stalled after %d bytes: %d requests", name, sent, n)
			}
			if n := r.Stats()[reg.Host()].Hedges; n != 1 {
				t.Errorf("%s, stalled after %d bytes: %d second requests", name, sent, n)
			}
		}
	}
}
