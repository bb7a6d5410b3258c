package estargz_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

func TestClaimOf(t *testing.T) {
	const (
		sum   = estargz.AnnotationContainersChecksum
		pos   = estargz.AnnotationContainersPosition
		sum2  = estargz.AnnotationStargzChecksum
		pos2  = estargz.AnnotationStargzPosition
		place = "1000:300:5000:1"
	)
	d, other := estargz.Sum([]byte("a")), estargz.Sum([]byte("b"))
	where := estargz.Footer{TOCOffset: 1000, TOCSize: 300, TOCRawSize: 5000, Zstd: true}
	type m = map[string]string
	tests := []struct {
		name        string
		annotations m
		want        estargz.Claim
		err         error
	}{
		{"nothing", nil, estargz.Claim{}, nil},
		{"others", m{"a": "b"}, estargz.Claim{}, nil},
		{"a position alone", m{pos: place}, estargz.Claim{}, nil},
		{"TOC", m{estargz.AnnotationTOCDigest: d.String()}, estargz.Claim{TOC: d}, nil},
		{"containers", m{sum: d.String(), pos: place}, estargz.Claim{Packed: d, Place: where}, nil},
		{"stargz", m{estargz.AnnotationTOCDigest: other.String(), sum2: d.String(), pos2: place}, estargz.Claim{TOC: other, Packed: d, Place: where}, nil},
		{"both, the same", m{sum: d.String(), pos: place, sum2: d.String(), pos2: place}, estargz.Claim{Packed: d, Place: where}, nil},
		{"both, other digests", m{sum: d.String(), pos: place, sum2: other.String(), pos2: place}, estargz.Claim{}, estargz.ErrClaim},
		{"both, other places", m{sum: d.String(), pos: place, sum2: d.String(), pos2: "1001:300:5000:1"}, estargz.Claim{}, estargz.ErrClaim},
		{"TOC digest", m{estargz.AnnotationTOCDigest: "sha256:x"}, estargz.Claim{}, estargz.ErrClaim},
		{"empty TOC digest", m{estargz.AnnotationTOCDigest: ""}, estargz.Claim{}, estargz.ErrClaim},
		{"TOC digest of zeros", m{estargz.AnnotationTOCDigest: estargz.Digest{}.String()}, estargz.Claim{}, estargz.ErrClaim},
		{"checksum of zeros", m{sum: estargz.Digest{}.String(), pos: place}, estargz.Claim{}, estargz.ErrClaim},
		{"checksum", m{sum: "md5:x", pos: place}, estargz.Claim{}, estargz.ErrClaim},
		{"no position", m{sum: d.String()}, estargz.Claim{}, estargz.ErrClaim},
		{"three numbers", m{sum: d.String(), pos: "1:2:3"}, estargz.Claim{}, estargz.ErrClaim},
		{"signed", m{sum: d.String(), pos: "-1:300:5000:1"}, estargz.Claim{}, estargz.ErrClaim},
		{"plus", m{sum: d.String(), pos: "+1:300:5000:1"}, estargz.Claim{}, estargz.ErrClaim},
		{"blank", m{sum: d.String(), pos: "1:300:5000:1 "}, estargz.Claim{}, estargz.ErrClaim},
		{"2^63", m{sum: d.String(), pos: "9223372036854775808:300:5000:1"}, estargz.Claim{}, estargz.ErrClaim},
		{"type 2", m{sum: d.String(), pos: "1000:300:5000:2"}, estargz.Claim{}, estargz.ErrTOCVersion},
		{"empty", m{sum: d.String(), pos: "1000:0:5000:1"}, estargz.Claim{}, estargz.ErrTOCOffset},
		{"a megabyte", m{sum: d.String(), pos: strings.Repeat(":", 1<<20)}, estargz.Claim{}, estargz.ErrClaim},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := estargz.ClaimOf(tt.annotations)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%+v, %v", got, err)
			}
			if err != nil && (fserr.KindOf(err) != fserr.Corrupt || len(err.Error()) > 500) {
				t.Errorf("%v: %.1000v", fserr.KindOf(err), err)
			}
		})
	}
}

func TestClaimChecks(t *testing.T) {
	text := []byte("a")
	d := estargz.Sum(text)
	for _, c := range []estargz.Claim{{}, {TOC: d}, {Packed: d}, {TOC: d, Packed: d}} {
		if c.None() != (c == estargz.Claim{}) {
			t.Errorf("%+v: None is %v", c, c.None())
		}
		if err := errors.Join(c.CheckPacked(text), c.CheckTOC(d)); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		packed, toc := c.CheckPacked([]byte("b")), c.CheckTOC(estargz.Digest{1})
		if (packed == nil) != c.Packed.IsZero() || (toc == nil) != c.TOC.IsZero() {
			t.Errorf("%+v: %v, %v", c, packed, toc)
		}
	}
}

// FuzzClaim: what annotations say is refused as damaged, or names a place that a
// blob may have and digests that can be checked.
func FuzzClaim(f *testing.F) {
	d := estargz.Sum([]byte("a")).String()
	f.Add(d, d, "1000:300:5000:1", d, "1000:300:5000:1", int64(10_000))
	f.Add("", "", "", d, "0:1:1:1", int64(0))
	f.Add(d, d, "9223372036854775807:9223372036854775807:1:1", "", "", int64(1<<62))
	f.Add("sha256:", d, "8:1:1:1", d, "::::", int64(10))
	f.Fuzz(func(t *testing.T, toc, sum, pos, sum2, pos2 string, blob int64) {
		m := map[string]string{}
		for key, v := range map[string]string{
			estargz.AnnotationTOCDigest: toc, estargz.AnnotationContainersChecksum: sum, estargz.AnnotationContainersPosition: pos,
			estargz.AnnotationStargzChecksum: sum2, estargz.AnnotationStargzPosition: pos2,
		} {
			if v != "" {
				m[key] = v
			}
		}
		c, err := estargz.ClaimOf(m)
		if err != nil {
			if fserr.KindOf(err) != fserr.Corrupt || c != (estargz.Claim{}) {
				t.Fatalf("%+v, %v", c, err)
			}
			return
		}
		if c.None() != (toc == "" && sum == "" && sum2 == "") || c.Packed.IsZero() != (c.Place == estargz.Footer{}) {
			t.Fatalf("%+v", c)
		}
		if c.Packed.IsZero() || blob < 0 {
			return
		}
		off, n, err := c.Place.TOCRange(blob, estargz.Limits{})
		if err == nil && (off < 8 || n <= 0 || n > 64<<20 || off > blob-n || c.Place.DataEnd() < 0) {
			t.Fatalf("TOC at %d+%d of %d", off, n, blob)
		}
	})
}
