package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// maxMessage is what kubelet allows, and a runtime sends.
	maxMessage = 16 << 20
	// stopGrace is how long calls under way may take when the proxy stops.
	stopGrace = 5 * time.Second
)

// Proxy passes on what kubelet asks a container runtime, and notes the credentials of
// pulls.
type Proxy struct {
	memory *Memory
	log    *zap.Logger
	conn   *grpc.ClientConn
	wg     sync.WaitGroup
}

// NewProxy makes a proxy for the runtime that listens on a unix socket. Nothing is
// contacted before the first call, and the runtime may come and go.
func NewProxy(runtime string, memory *Memory, log *zap.Logger) (*Proxy, error) {
	if log == nil {
		log = zap.NewNop()
	}
	conn, err := grpc.NewClient("unix:"+runtime,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket of root's
		grpc.WithDefaultCallOptions(grpc.ForceCodec(asIs{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("container runtime at %s: %w", runtime, err)
	}
	return &Proxy{memory: memory, log: log, conn: conn}, nil
}

// Serve passes calls on until ctx ends.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	srv := grpc.NewServer(grpc.ForceServerCodec(asIs{}), grpc.UnknownServiceHandler(p.call),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		timer := time.AfterFunc(stopGrace, srv.Stop)
		srv.GracefulStop()
		timer.Stop()
	})
	err := srv.Serve(ln)
	if !stop() {
		<-stopped
	}
	srv.Stop()
	p.wg.Wait()
	return errors.Join(err, p.conn.Close())
}

// call passes one call on.
func (p *Proxy) call(_ any, in grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok {
		return status.Error(codes.Internal, "a call without a method")
	}
	ctx, cancel := context.WithCancel(outgoing(in.Context()))
	defer cancel()
	out, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	var noted notes
	p.wg.Go(func() {
		p.requests(in, out, isPull(method), &noted)
	})
	err = responses(in, out)
	noted.end(err != nil)
	return err
}

// outgoing carries the metadata of a call on, and its deadline.
func outgoing(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	for _, own := range []string{":authority", "content-type", "user-agent", "grpc-accept-encoding"} {
		md.Delete(own)
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// isPull recognises the call that shows credentials.
func isPull(method string) bool {
	return method == "/runtime.v1.ImageService/PullImage" || method == "/runtime.v1alpha2.ImageService/PullImage"
}

// requests passes on what the caller sends; it ends with the call at the latest.
func (p *Proxy) requests(in grpc.ServerStream, out grpc.ClientStream, look bool, noted *notes) {
	for {
		var m message
		if err := in.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				_ = out.CloseSend() // a call that has failed says so to responses
			}
			return
		}
		if look {
			pull, err := parsePull(m)
			if err != nil {
				p.log.Debug("request of a pull not understood", zap.Error(err))
			} else {
				noted.add(p.memory.note(pull))
			}
		}
		if out.SendMsg(&m) != nil {
			return // responses gets the reason
		}
	}
}

// responses passes on what the runtime answers.
func responses(in grpc.ServerStream, out grpc.ClientStream) error {
	header, err := out.Header()
	if err == nil && header != nil {
		err = in.SetHeader(header)
	}
	for err == nil {
		var m message
		if err = out.RecvMsg(&m); err == nil {
			err = in.SendMsg(&m)
		}
	}
	in.SetTrailer(out.Trailer())
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// notes are what one call left in the memory.
type notes struct {
	mu    sync.Mutex
	undo  []func()
	ended bool
	taken bool // back
}

func (n *notes) add(undo func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		if n.taken {
			undo()
		}
		return
	}
	n.undo = append(n.undo, undo)
}

// end is called once, when the call is over.
func (n *notes) end(failed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended, n.taken = true, failed
	if failed {
		for _, undo := range n.undo {
			undo()
		}
	}
}

// message is the bytes of one, whatever it is.
type message []byte

// asIs is a codec that leaves messages alone.
type asIs struct{}

// Marshal implements encoding.Codec.
func (asIs) Marshal(v any) ([]byte, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message that is passed on", v)
	}
	return *m, nil
}

// Unmarshal implements encoding.Codec.
func (asIs) Unmarshal(data []byte, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("%T is not a message that is passed on", v)
	}
	*m = append((*m)[:0], data...)
	return nil
}

// Name implements encoding.Codec: what the messages are.
func (asIs) Name() string { return "proto" }
