package layout_test

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
		path := filepath.Join(t.TempDir(), "layout")
		return sourcetest.Harness{Backend: layout.New(), Ref: func(target string) string {
			if strings.Contains(target, ":") {
				return "oci:" + path + "@" + target
			}
			return "oci:" + path + ":" + target
		}}
	})
}
