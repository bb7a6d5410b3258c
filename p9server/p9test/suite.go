package p9test

import (
	"embed"
	"encoding/hex"
	"fmt"
	"net"
	"path"
	"strings"
	"testing"

	"github.com/nineply/nineply/p9server"
)

// Connect puts an implementation in front of e and gives a new connection to
// it. It registers what must be done afterwards with t.Cleanup.
type Connect func(t *testing.T, e p9server.Exporter) net.Conn

//go:embed testdata/*.txt
var transcripts embed.FS

// Transcripts gives the suite's transcripts by name.
func Transcripts() (map[string]string, error) {
	entries, err := transcripts.ReadDir("testdata")
	if err != nil {
		return nil, fmt.Errorf("listing transcripts: %w", err)
	}
	scripts := map[string]string{}
	for _, e := range entries {
		text, err := transcripts.ReadFile(path.Join("testdata", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading transcript: %w", err)
		}
		scripts[strings.TrimSuffix(e.Name(), ".txt")] = string(text)
	}
	return scripts, nil
}

// Run checks that an implementation behaves as 9P2000.L clients, above all
// Linux, expect of a read-only tree.
func Run(t *testing.T, connect Connect) {
	scripts, err := Transcripts()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			e := Export(Reference(t))
			client := NewClient(t, connect(t, e))
			if got := Play(client, script); got != script {
				t.Errorf("transcript differs:\n%s", firstDifference(got, script))
			}
		})
	}
	t.Run("readdir in small steps", func(t *testing.T) { testReaddirSteps(t, connect) })
	t.Run("cookies outlive the connection", func(t *testing.T) { testCookies(t, connect) })
	t.Run("slow read does not block", func(t *testing.T) { testSlowRead(t, connect) })
	t.Run("flush", func(t *testing.T) { testFlush(t, connect) })
	t.Run("slow attach", func(t *testing.T) { testSlowAttach(t, connect) })
	t.Run("flush races", func(t *testing.T) { testFlushRaces(t, connect) })
	t.Run("version races", func(t *testing.T) { testVersionRaces(t, connect) })
	t.Run("version resets", func(t *testing.T) { testVersionResets(t, connect) })
}

// Play sends the requests of a transcript ("> ") and raw bytes (">> ", in
// hex), and gives the transcript with the replies as they really came, "< EOF"
// where the connection was closed. Other lines are kept.
func Play(client *Client, script string) string {
	client.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if raw, ok := strings.CutPrefix(line, ">> "); ok {
			b, err := hex.DecodeString(strings.ReplaceAll(raw, " ", ""))
			if err != nil {
				client.t.Fatal(err)
			}
			client.SendBytes(b)
		} else if request, ok := strings.CutPrefix(line, "> "); ok {
			client.Send(request)
		} else if strings.HasPrefix(line, "<") {
			line = "< " + client.Receive()
		}
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

// firstDifference shows where two texts part, with the line before.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d, after %s\n got %s\nwant %s", i+1, w[max(i-1, 0)], g[i], w[i])
		}
	}
	return "one ends early"
}
