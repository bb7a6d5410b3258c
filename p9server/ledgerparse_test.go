package p9server

import "testing"

// FuzzLedger: what a dead process leaves may be anything. An input is written over
// the first page and over the beginning of the log.
func FuzzLedger(f *testing.F) {
	mem := make([]byte, ledgerSize)
	seed := func(fill func(l *ledger)) {
		clear(mem[:4096])
		l := newLedger(mem)
		l.begun()
		fill(l)
		l.commit()
		n := l.rec.length
		f.Add(append([]byte(nil), mem[:512]...), append([]byte(nil), mem[logAt:logAt+n]...))
	}
	seed(func(*ledger) {})
	seed(func(l *ledger) {
		var b []byte
		for _, e := range []ledgerEntry{
			{kind: entryTree, tree: 1, node: 7},
			{kind: entryFID, state: fidWalked, id: 3, tree: 1, node: 1},
			{kind: entryRead, id: 9, tree: 1, node: 2, n: 4096},
			{kind: entryAttach, id: 10, n: 5},
			{kind: entryDone, id: 10},
			{kind: entryDrop, id: 3},
		} {
			b = appendEntry(b, &e, "name")
		}
		l.rec.msize = 8192
		l.append(b)
	})
	f.Fuzz(func(t *testing.T, page, log []byte) {
		clear(mem[:4096])
		n := copy(mem[:4096], page)
		copy(mem, ledgerMagic)
		clear(mem[logAt : logAt+64<<10])
		copy(mem[logAt:logAt+64<<10], log)
		if n < 512 {
			return
		}
		if mem[ledgerAt] <= 1 { // a log no longer than what was written, as zeros say nothing
			at := recordAt + int(mem[ledgerAt])*recordSize
			mem[at+2], mem[at+3], mem[at+4] = 0, 0, 0
		}
		s, err := parseLedger(mem, 1000)
		if err != nil {
			return
		}
		if s.received > requestBuffer || int(s.rec.start) > s.received || s.sent > int(s.rec.end) || len(s.fids) > 1000 {
			t.Errorf("accepted: %+v", s.rec)
		}
		for _, h := range s.fids {
			if _, ok := s.trees[h.tree]; !ok {
				t.Errorf("fid %d has no tree", h.id)
			}
		}
	})
}
