package registry

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
)

func TestParseContentRange(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want contentRange
		ok   bool
	}{
		{"bytes 0-99/200", contentRange{0, 99, 200}, true},
		{"bytes 5-5/6", contentRange{5, 5, 6}, true},
		{"bytes 0-99/*", contentRange{0, 99, -1}, true},
		{" Bytes  7-9/10 ", contentRange{7, 9, 10}, true},
		{"bytes 0-9223372036854775806/9223372036854775807", contentRange{0, 9223372036854775806, 9223372036854775807}, true},
		{in: ""}, {in: "bytes"}, {in: "bytes */200"}, {in: "bytes 0-99"}, {in: "bytes 99-0/200"}, {in: "bytes 0-200/200"},
		{in: "bytes 0-99/-1"}, {in: "bytes -5-9/20"}, {in: "bytes +0-9/20"}, {in: "items 0-9/20"}, {in: "bytes=0-9/20"},
		{in: "bytes 0-9/20/30"}, {in: "bytes 0-9223372036854775808/*"}, {in: "bytes 0x0-9/20"}, {in: "bytes 0-9 /20"}, {in: "bytes 1_0-99/200"},
	} {
		got, ok := parseContentRange(tt.in)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %+v, %v", tt.in, got, ok)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/200", "bytes 0-0/*", "bytes */5", "bytes 9-1/5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseContentRange(s)
		if ok && (c.first < 0 || c.last < c.first || (c.total != -1 && c.total <= c.last)) {
			t.Errorf("%q gives %+v", s, c)
		}
	})
}

// FuzzCheckAnswer lets a host answer anything to a request for bytes 100-199 of
// 1000.
func FuzzCheckAnswer(f *testing.F) {
	f.Add(206, "bytes 100-199/1000", int64(100))
	f.Add(206, "bytes 100-149/*", int64(-1))
	f.Add(200, "", int64(1000))
	f.Add(206, "bytes 0-99/1000", int64(100))
	f.Fuzz(func(t *testing.T, status int, header string, length int64) {
		resp := &http.Response{
			StatusCode: status, ContentLength: length,
			Header: http.Header{"Content-Range": {header}}, Body: io.NopCloser(strings.NewReader("")),
		}
		s, err := checkAnswer(resp, 100, 100, 1000)
		if err != nil {
			if asFailure(err).kind == 0 {
				t.Errorf("an error without a kind: %v", err)
			}
			return
		}
		if s.n < 1 || s.n > 100 || s.whole != (s.skip == 100) || !s.whole && s.skip != 0 {
			t.Errorf("%d, %q, %d: take %+v", status, header, length, s)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		in       string
		clock    time.Duration
		min, max time.Duration
	}{
		{"", 0, 0, 0}, {"0", 0, 0, 0}, {" 17 ", 0, 17 * time.Second, 17 * time.Second}, {"-5", 0, 0, 0}, {"1.5", 0, 0, 0},
		{"99999999999999", 0, 0, 0}, {"soon", 0, 0, 0},
		{at(time.Hour), 0, 58 * time.Minute, time.Hour}, {at(-time.Hour), 0, 0, 0},
		{at(time.Hour), -30 * time.Minute, 28 * time.Minute, 30 * time.Minute},
	} {
		if got := parseRetryAfter(tt.in, tt.clock); got < tt.min || got > tt.max {
			t.Errorf("%q: %v, want %v to %v", tt.in, got, tt.min, tt.max)
		}
	}
}

func TestErrorMessage(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {"<html>", ""}, {`{"errors":[]}`, ""},
		{`{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}`, "DENIED no"},
		{`{"errors":[{"message":"` + strings.Repeat("é", 200) + `"}]}`, strings.Repeat("é", 128) + "..."},
	} {
		if got := errorMessage([]byte(tt.in)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzErrorMessage(f *testing.F) {
	f.Add([]byte(`{"errors":[{"code":"DENIED","message":"no"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := errorMessage(data); len(got) > 300 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

func TestStatusKinds(t *testing.T) {
	for status, want := range map[int]struct {
		kind  fserr.Kind
		retry bool
	}{
		404: {fserr.NotExist, false}, 410: {fserr.NotExist, false}, 401: {fserr.Unauthorized, false}, 403: {fserr.Unauthorized, false},
		416: {fserr.Corrupt, false}, 429: {fserr.Unavailable, true}, 408: {fserr.Unavailable, true}, 500: {fserr.Unavailable, true},
		502: {fserr.Unavailable, true}, 503: {fserr.Unavailable, true}, 504: {fserr.Unavailable, true}, 599: {fserr.Unavailable, true},
		501: {fserr.Unsupported, false}, 505: {fserr.Unsupported, false}, 400: {fserr.Invalid, false}, 405: {fserr.Invalid, false},
		204: {fserr.Unavailable, false}, 304: {fserr.Unavailable, false},
	} {
		if f := statusFailure(status, "", "", 0); f.kind != want.kind || f.retry != want.retry {
			t.Errorf("%d: %v, retry %v, want %+v", status, f.kind, f.retry, want)
		}
	}
}
