package image_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// update adds a version of the program's image in which the uppermost layer was made
// anew: its files lie elsewhere, and two of those that are read have other content.
func (p *program) update(t testing.TB, repo string) (ref string, body map[string]string) {
	t.Helper()
	body = map[string]string{}
	files := []file{{name: "new", body: random("new", 40_000)}, {name: "c/"}}
	for i := 99; i >= 0; i-- {
		path := fmt.Sprintf("c/%03d", i)
		if body[path] = p.body[path]; i == 71 || i == 12 {
			body[path] = "changed" + random(path+"'", 35_000)
		}
		files = append(files, file{name: path, body: body[path]})
	}
	a, b := p.added.Layers[0], p.added.Layers[1]
	old := p.AddImage(repo, "v2", testreg.Image{Layers: []testreg.Layer{
		p.layers[0], p.layers[1], lazyLayer(t, files...),
	}})
	if old.Layers[0].Digest != a.Digest || old.Layers[1].Digest != b.Digest {
		t.Fatal("the layers below changed, too")
	}
	for path := range p.body {
		if path[0] != 'c' {
			body[path] = p.body[path]
		}
	}
	return p.Ref(repo, "v2"), body
}

// TestProfileOfPreviousVersion starts an image whose other version has a profile.
func TestProfileOfPreviousVersion(t *testing.T) {
	for name, tt := range map[string]struct {
		repo   string
		ran    bool // the node ran the other version, and has what that read
		files  bool // the node has the other version's indexes
		unread int  // files that have to be waited for, of those not in the layer below
	}{
		"ran here":                  {"app", true, true, 0},
		"nothing is local":          {"app", false, true, 0},
		"of another repository":     {"app2", true, true, 2},
		"of one that was not here":  {"app", false, false, 7},
		"another one, nothing here": {"app2", false, true, 7},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t)
			data := p.learn(t)
			ref, body := p.update(t, tt.repo)
			n := startProfiled(t, t.TempDir(), image.Profiles{Record: tt.ran, Use: true})
			switch {
			case tt.ran:
				p.run(t, n, p.aname())
				n.waitRuns(1)
			case tt.files:
				if _, release, err := n.Open(t.Context(), p.aname()); err != nil {
					t.Fatal(err)
				} else {
					release()
				}
			}
			if !tt.ran {
				if _, err := n.ImportProfile(t.Context(), data, ""); err != nil {
					t.Fatal(err)
				}
			}
			asked := n.ProfileStats()
			tr, release, err := n.Open(t.Context(), "image/"+ref)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			st := n.ProfileStats()
			if got := st.Inherited - asked.Inherited; got != map[bool]int64{true: 1, false: 0}[tt.unread == 0] {
				t.Errorf("inherited %d times", got)
			}
			for st.Inherited > 0 && n.busy() {
				runtime.Gosched()
			}
			missed := 0
			for _, path := range p.reads {
				before := n.misses(tr)
				if got, err := readFile(t.Context(), tr, path); err != nil || got != body[path] {
					t.Errorf("%s: %d bytes, %v", path, len(got), err)
				}
				if path[0] == 'c' {
					missed += int(n.misses(tr) - before)
				}
			}
			if missed != tt.unread {
				t.Errorf("%d files had to be waited for, want %d", missed, tt.unread)
			}
		})
	}
}

// misses is how many reads of a tree had to wait.
func (n *profiled) misses(tr image.Tree) int64 {
	for _, info := range n.Trees() {
		if info.Name == tr.Name() {
			return info.Account.Misses
		}
	}
	return -1
}

// busy reports whether anything is being fetched.
func (n *profiled) busy() bool {
	st := n.sched.Stats()
	return st.Queued+st.Active > 0
}
