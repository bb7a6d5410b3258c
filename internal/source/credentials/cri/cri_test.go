package cri

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nineply/nineply/internal/source/credentials"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// encode makes a message of fields with strings or messages.
func encode(fields map[protowire.Number]string) string {
	var out []byte
	for n := protowire.Number(1); n < 20; n++ {
		if v, ok := fields[n]; ok {
			out = protowire.AppendTag(out, n, protowire.BytesType)
			out = protowire.AppendString(out, v)
		}
	}
	return string(out)
}

// request is a PullImageRequest, with fields that are of no concern here.
func request(image string, auth map[protowire.Number]string) message {
	spec := encode(map[protowire.Number]string{1: image, 2: "annotation", 18: "as the user wrote it"})
	out := encode(map[protowire.Number]string{1: spec, 3: "sandbox"})
	if auth != nil {
		out = encode(map[protowire.Number]string{1: spec, 2: encode(auth), 3: "sandbox"})
	}
	return append(protowire.AppendTag(nil, 9, protowire.VarintType), append([]byte{42}, out...)...)
}

func basic(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func find(t *testing.T, m *Memory, host, repository string) []credentials.Credential {
	t.Helper()
	list, err := m.Credentials(t.Context(), host, repository)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestMemory(t *testing.T) {
	joe := credentials.Credential{Username: "joe", Password: "pw"}
	for _, tt := range []struct {
		name, image      string
		auth             map[protowire.Number]string
		host, repository string
		want             credentials.Credential
	}{
		{"password", "reg.example/team/app:v1", map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example", "team/app", joe},
		{"by digest", "reg.example/team/app@sha256:" + strings.Repeat("0", 64), map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example", "team/app", joe},
		{"encoded", "reg.example/app", map[protowire.Number]string{3: basic("joe:pw")}, "reg.example", "app", joe},
		{"identity token", "reg.example/app", map[protowire.Number]string{5: "id"}, "reg.example", "app", credentials.Credential{RefreshToken: "id"}},
		{"registry token", "reg.example/app", map[protowire.Number]string{6: "rt"}, "reg.example", "app", credentials.Credential{AccessToken: "rt"}},
		{"docker's hub", "alpine", map[protowire.Number]string{1: "joe", 2: "pw"}, "registry-1.docker.io", "library/alpine", joe},
		{"with a port", "reg.example:5000/app", map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example:5000", "app", joe},
		{"another port", "reg.example:5000/app", map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example", "app", credentials.Credential{}},
		{"another repository", "reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example", "app/x", credentials.Credential{}},
		{"another host", "reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw"}, "docker.io", "app", credentials.Credential{}},
		{"of a server", "reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw", 4: "https://index.docker.io/v1/"}, "registry-1.docker.io", "app", joe},
		{"of another server", "reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw", 4: "mirror.example"}, "reg.example", "app", credentials.Credential{}},
		{"of nonsense", "reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw", 4: "https://"}, "reg.example", "app", credentials.Credential{}},
		{"not encoded", "reg.example/app", map[protowire.Number]string{3: "!"}, "reg.example", "app", credentials.Credential{}},
		{"nothing", "reg.example/app", nil, "reg.example", "app", credentials.Credential{}},
		{"no reference", "Reg Example", map[protowire.Number]string{1: "joe", 2: "pw"}, "reg.example", "app", credentials.Credential{}},
		{"too long", "reg.example/app", map[protowire.Number]string{6: strings.Repeat("x", maxSecret+1)}, "reg.example", "app", credentials.Credential{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMemory(0)
			p, err := parsePull(request(tt.image, tt.auth))
			if err != nil {
				t.Fatal(err)
			}
			undo := m.note(p)
			var want []credentials.Credential
			if tt.want != (credentials.Credential{}) {
				want = append(want, tt.want)
			}
			if diff := cmp.Diff(want, find(t, m, tt.host, tt.repository)); diff != "" {
				t.Error(diff)
			}
			if undo(); m.Len() != 0 {
				t.Error("not taken back")
			}
		})
	}
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	m := NewMemory(time.Hour)
	m.now = func() time.Time { return now }
	note := func(image, user string) { m.note(pull{image: image, username: user, password: "pw"}) }
	for i := range maxEach + 3 {
		note("reg.example/app", fmt.Sprint(i))
		now = now.Add(time.Minute)
	}
	list := find(t, m, "reg.example", "app")
	if len(list) != maxEach || list[0].Username != fmt.Sprint(maxEach+2) {
		t.Errorf("%d credentials, first %s", len(list), list[0].Username)
	}
	note("reg.example/app", list[2].Username)
	if again := find(t, m, "reg.example", "app"); len(again) != maxEach || again[0] != list[2] {
		t.Error("what was shown again is not the latest")
	}
	now = now.Add(58 * time.Minute)
	if got := find(t, m, "reg.example", "app"); len(got) != 2 {
		t.Errorf("%d credentials are young enough", len(got))
	}
	for i := range maxRepositories {
		note(fmt.Sprintf("reg.example/r%d", i), "joe")
		now = now.Add(time.Millisecond)
	}
	if m.Len() != maxRepositories || len(find(t, m, "reg.example", "app")) != 0 || len(find(t, m, "reg.example", "r1")) != 1 {
		t.Errorf("%d repositories", m.Len())
	}
	now = now.Add(2 * time.Hour)
	note("reg.example/new", "joe")
	if m.Len() != 1 {
		t.Errorf("%d repositories after all expired", m.Len())
	}
}

// runtime stands for containerd.
type runtime struct {
	got  chan string // what it was asked
	fail error
	// during is called while a call runs.
	during func()
}

func (r *runtime) call(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	var m message
	if err := s.RecvMsg(&m); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	_, deadline := s.Context().Deadline()
	r.got <- fmt.Sprintf("%s %q %v %v", method, string(m), md.Get("k"), deadline)
	if r.during != nil {
		r.during()
	}
	if err := s.SetHeader(metadata.Pairs("h", "1")); err != nil {
		return err
	}
	s.SetTrailer(metadata.Pairs("t", "2"))
	if r.fail != nil {
		return r.fail
	}
	if strings.HasSuffix(method, "Events") {
		for range 3 {
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return s.Context().Err()
	}
	answer := message("answer")
	return s.SendMsg(&answer)
}

// serve runs fn on a socket until the test ends.
func serve(t *testing.T, name string, fn func(ctx context.Context, ln net.Listener) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- fn(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return path
}

func connect(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(asIs{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// proxied is a client of a proxy of a runtime.
func proxied(t *testing.T, r *runtime, m *Memory) *grpc.ClientConn {
	t.Helper()
	r.got = make(chan string, 16)
	back := serve(t, "runtime.sock", func(ctx context.Context, ln net.Listener) error {
		srv := grpc.NewServer(grpc.ForceServerCodec(asIs{}), grpc.UnknownServiceHandler(r.call))
		defer context.AfterFunc(ctx, srv.Stop)()
		return srv.Serve(ln)
	})
	p, err := NewProxy(back, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, serve(t, "proxy.sock", p.Serve))
}

func TestProxyPassesOn(t *testing.T) {
	r := &runtime{}
	conn := proxied(t, r, NewMemory(0))
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "k", "v"), 20*time.Second)
	defer cancel()
	for _, method := range []string{"/runtime.v1.ImageService/ImageStatus", "/runtime.v1.ImageService/PullImage", "/runtime.v1.RuntimeService/Version", "/any.Service/Method"} {
		in, out := message("\xff not a message"), message{}
		var header, trailer metadata.MD
		if err := conn.Invoke(ctx, method, &in, &out, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%s %q [v] true", method, string(in)); <-r.got != want || string(out) != "answer" {
			t.Errorf("%s: %q", method, out)
		}
		if len(header.Get("h")) != 1 || len(trailer.Get("t")) != 1 {
			t.Errorf("%s: header %v, trailer %v", method, header, trailer)
		}
	}
	r.fail = status.Error(codes.NotFound, "no such image")
	in, out := message("x"), message{}
	if err := conn.Invoke(ctx, "/runtime.v1.ImageService/ImageStatus", &in, &out); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such image") {
		t.Errorf("a failure became %v", err)
	}
	<-r.got
	r.fail = nil
	stream(t, conn, r)
}

// stream follows events until the caller has had enough.
func stream(t *testing.T, conn *grpc.ClientConn, r *runtime) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/runtime.v1.RuntimeService/GetContainerEvents")
	if err != nil {
		t.Fatal(err)
	}
	in := message("e")
	if err := errors.Join(s.SendMsg(&in), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var m message
		if err := s.RecvMsg(&m); err != nil || string(m) != "e" {
			t.Fatalf("%q, %v", m, err)
		}
	}
	<-r.got
	cancel()
	var m message
	if err := s.RecvMsg(&m); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the stream went on: %v", err)
	}
}

func TestProxyRemembers(t *testing.T) {
	m := NewMemory(0)
	r := &runtime{}
	conn := proxied(t, r, m)
	joe := map[protowire.Number]string{1: "joe", 2: "pw"}
	during := 0
	r.during = func() { during = len(find(t, m, "reg.example", "app")) }
	for _, tt := range []struct {
		method        string
		auth          map[protowire.Number]string
		fail          error
		during, after int
	}{
		{"/runtime.v1.ImageService/ImageStatus", joe, nil, 0, 0},
		{"/runtime.v1.ImageService/PullImage", nil, nil, 0, 0},
		{"/runtime.v1.ImageService/PullImage", joe, status.Error(codes.Unauthenticated, "wrong"), 1, 0},
		{"/runtime.v1.ImageService/PullImage", joe, nil, 1, 1},
		{"/runtime.v1.ImageService/PullImage", joe, status.Error(codes.Unavailable, "later"), 1, 1},
		{"/runtime.v1alpha2.ImageService/PullImage", map[protowire.Number]string{1: "jane", 2: "pw"}, nil, 2, 2},
	} {
		r.fail = tt.fail
		in, out := request("reg.example/app:v1", tt.auth), message{}
		err := conn.Invoke(t.Context(), tt.method, &in, &out)
		<-r.got
		if (err == nil) != (tt.fail == nil) || during != tt.during {
			t.Errorf("%v: %v, %d known meanwhile", tt, err, during)
		}
		if n := len(find(t, m, "reg.example", "app")); n != tt.after {
			t.Errorf("%v: %d known afterwards", tt, n)
		}
	}
}

func TestNoRuntime(t *testing.T) {
	m := NewMemory(0)
	p, err := NewProxy(filepath.Join(t.TempDir(), "nobody.sock"), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, serve(t, "proxy.sock", p.Serve))
	in, out := request("reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw"}), message{}
	if err := conn.Invoke(t.Context(), "/runtime.v1.ImageService/PullImage", &in, &out); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if m.Len() != 0 {
		t.Error("a pull that nobody made left credentials")
	}
}

func FuzzParsePull(f *testing.F) {
	f.Add([]byte(request("reg.example/app", map[protowire.Number]string{1: "joe", 2: "pw", 3: "x", 4: "y", 5: "z", 6: "t"})))
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePull(data)
		if err != nil {
			return
		}
		m := NewMemory(0)
		if m.note(p)(); m.Len() != 0 {
			t.Error("not taken back")
		}
	})
}
