package registry

import (
	"fmt"
	"net/url"
	"testing"
	"time"
)

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestLifetime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for query, want := range map[string]time.Duration{
		"":                                     unknownLife,
		"signature=1":                          unknownLife,
		"X-Amz-Date=x&X-Amz-Expires=1200":      18 * time.Minute,
		"X-Goog-Expires=600":                   9 * time.Minute,
		"X-Amz-Expires=604800":                 maxLife,
		"X-Amz-Expires=-5":                     -4500 * time.Millisecond,
		"X-Amz-Expires=99999999999999":         unknownLife,
		fmt.Sprint("Expires=", now.Unix()+100): 90 * time.Second,
		"Expires=tomorrow":                     unknownLife,
		"se=2026-01-02T03:14:05Z&sig=x":        9 * time.Minute,
	} {
		if got := lifetime(parseURL(t, "https://h.example/x?"+query), now); got != want {
			t.Errorf("%q: %v, want %v", query, got, want)
		}
	}
	for _, query := range []string{"Expires=0", "Expires=-9223372036854775808", "Expires=9223372036854775807", "se=0001-01-01T00:00:00Z"} {
		if got := lifetime(parseURL(t, "https://h.example/x?"+query), now); got > maxLife {
			t.Errorf("%q: %v", query, got)
		}
	}
}

func TestLocations(t *testing.T) {
	var l locations
	now := time.Unix(1_700_000_000, 0)
	e := &endpoint{}
	at := func(i int) place { return place{e, "demo", fmt.Sprint(i)} }
	u := parseURL(t, "https://h.example/x?X-Amz-Expires=100")
	l.put(at(0), u, now)
	if got := l.get(at(0), now.Add(89*time.Second)); got != u {
		t.Errorf("got %v", got)
	}
	if got := l.get(at(0), now.Add(90*time.Second)); got != nil {
		t.Errorf("got %v after its time", got)
	}
	l.put(at(0), u, now)
	l.drop(at(0), parseURL(t, "https://h.example/other"))
	if l.get(at(0), now) == nil {
		t.Error("an address was dropped for another")
	}
	l.drop(at(0), u)
	if l.get(at(0), now) != nil {
		t.Error("a refused address is kept")
	}
	l.put(at(0), parseURL(t, "https://h.example/x?X-Amz-Expires=0"), now)
	if l.get(at(0), now) != nil {
		t.Error("an address without life is kept")
	}
	for i := range maxLocations + 10 {
		l.put(at(i), u, now.Add(time.Duration(i)*time.Millisecond))
	}
	if n := len(l.known); n != maxLocations {
		t.Errorf("%d addresses are kept", n)
	}
	if l.get(at(0), now) != nil || l.get(at(maxLocations+9), now) == nil {
		t.Error("not the oldest gave way")
	}
	l.forget(e)
	if len(l.known) != 0 {
		t.Errorf("%d addresses of a retired host", len(l.known))
	}
}
