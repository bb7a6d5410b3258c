package image_test

import (
	"net/http"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// account gives that of the only tree there is.
func (n *profiled) account(t *testing.T) *image.Account {
	t.Helper()
	trees := n.Trees()
	if len(trees) != 1 || trees[0].Account == nil {
		t.Fatalf("trees %+v", trees)
	}
	return trees[0].Account
}

func TestAccount(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true})
	tr := n.tree(t, p.aname())
	read := func(paths ...string) {
		t.Helper()
		for _, path := range paths {
			if got, err := readFile(t.Context(), tr, path); err != nil || got != p.body[path] {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		}
	}
	read("c/001", "c/050")
	size := int64(len(p.body["c/001"]) + len(p.body["c/050"]))
	a := n.account(t)
	if a.Image != p.added.Descriptor.Digest.String() || a.Misses != 2 || a.Hits != 0 || a.Errors != 0 || a.Bytes != size || a.Waited <= 0 {
		t.Errorf("after two reads: %+v", a)
	}
	if a.Fetch.Requests["demand"] != 2 || a.Fetch.Bytes["demand"] < a.Start.Bytes {
		t.Errorf("fetched %+v", a.Fetch)
	}
	if s := a.Start; s.Over || s.Chunks != 2 || s.Bytes < 2*20_000 || s.Bytes > size || s.Asked != 0 || s.Unread != 0 {
		t.Errorf("start %+v", s)
	}
	read("c/001", "c/050", "c/001")
	if a = n.account(t); a.Hits+a.Misses != 5 || a.Hits < 1 || a.Bytes != 2*size+int64(len(p.body["c/001"])) {
		t.Errorf("after five reads: %+v", a)
	}
	if a.Start.Chunks != 2 {
		t.Errorf("start %+v", a.Start)
	}
	st := n.ReadStats()
	if st.Hit.Count+st.Miss.Count != 5 || len(st.Errors) != 0 {
		t.Errorf("times of reads: %+v", st)
	}
}

func TestAccountOfFailedReads(t *testing.T) {
	p := newProgram(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{})
	tr := n.tree(t, p.aname())
	p.Always(testreg.Match{Digest: p.added.Layers[2].Digest}, func(x testreg.Exchange) { x.W.WriteHeader(http.StatusNotFound) })
	if _, err := readFile(t.Context(), tr, "c/001"); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("a blob that is gone: %v", err)
	}
	a, st := n.account(t), n.ReadStats()
	if a.Errors != 1 || a.Misses != 0 || st.Errors[fserr.NotExist.String()] != 1 || st.Error.Count != 1 {
		t.Errorf("account %+v, all %+v", a, st)
	}
}

// TestAccountOfStart has a profile ask for what is read, and one file more.
func TestAccountOfStart(t *testing.T) {
	p := newProgram(t)
	data := p.learn(t)
	n := startProfiled(t, t.TempDir(), image.Profiles{Record: true, Use: true})
	if _, err := n.ImportProfile(t.Context(), data, ""); err != nil {
		t.Fatal(err)
	}
	tr, release, err := n.Open(t.Context(), p.aname())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range p.reads[1:] {
		if _, err := readFile(t.Context(), tr, path); err != nil {
			t.Fatal(err)
		}
	}
	a := n.account(t)
	if a.Missed != 0 || a.Fetch.Requests["demand"] != 0 || a.Fetch.Requests["prefetch"] == 0 {
		t.Errorf("account %+v", a)
	}
	s := a.Start
	if s.Over || s.Chunks != len(p.reads)-1 || s.Asked-s.Unread < s.Bytes || s.Unread < 20_000 {
		t.Errorf("start %+v", s)
	}
	release()
	if after := n.account(t).Start; !after.Over || after.Bytes != s.Bytes || after.Unread != s.Unread {
		t.Errorf("when it was over: %+v, before %+v", after, s)
	}
}
