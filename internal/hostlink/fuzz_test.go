package hostlink

import (
	"bytes"
	"testing"
)

// Any message is either refused or means what it says.
func FuzzParseReads(f *testing.F) {
	f.Add(AppendRead(nil, Read{Unique: 2, Node: 3, Off: 4, Size: 5}))
	f.Add(AppendRead(AppendRead(nil, Read{Size: 1}), Read{Size: MaxRead}))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		reads, err := parseReads(b, nil)
		if err != nil {
			return
		}
		var again []byte
		for _, r := range reads {
			if r.Size == 0 || r.Size > MaxRead || r.Off < 0 {
				t.Errorf("%+v", r)
			}
			again = AppendRead(again, r)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x becomes %x", b, again)
		}
	})
}
