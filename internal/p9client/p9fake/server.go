package p9fake

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Request is what a Hook sees of a message before it is handled.
type Request struct {
	Type uint8
	Tag  uint16
	Path string // host path of the fid, for messages that name one
}

// Hook may delay a request (by blocking), replace its answer by an errno, or
// say that it is never answered. It runs in the request's goroutine.
type Hook func(Request) (errno syscall.Errno, drop bool)

// Config describes a Server.
type Config struct {
	// Dir is the directory exported, whatever name is attached.
	Dir string
	// Socket is the Unix socket to listen on.
	Socket string
	// MSize is the largest message size agreed to; 0 means 1 MiB + 24.
	MSize uint32
	// RootPath is the qid path of the root; 0 means the inode number.
	RootPath uint64
	// Unordered handles every request in its own goroutine, as servers may.
	// Otherwise requests are answered in order as long as no Hook is set.
	Unordered bool
	// IOUnit is reported by Rlopen.
	IOUnit uint32
}

// Server is one fake server.
type Server struct {
	cfg    Config
	hook   atomic.Pointer[Hook]
	attach atomic.Int32 // errno for the next attaches

	mu    sync.Mutex
	ln    net.Listener
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup

	Requests atomic.Int64 // messages received
	Attaches atomic.Int64
	ByType   [256]atomic.Int64
	Fids     atomic.Int64 // fids live now, over all connections
}

// New makes a server that is not yet listening.
func New(cfg Config) *Server {
	if cfg.MSize == 0 {
		cfg.MSize = 1<<20 + 24
	}
	return &Server{cfg: cfg, conns: make(map[net.Conn]struct{})}
}

// SetHook installs h for requests from now on; nil removes it.
func (s *Server) SetHook(h Hook) {
	if h == nil {
		s.hook.Store(nil)
		return
	}
	s.hook.Store(&h)
}

// FailAttach makes attaches fail with errno; 0 lets them succeed again.
func (s *Server) FailAttach(errno syscall.Errno) { s.attach.Store(int32(errno)) }

// Start listens.
func (s *Server) Start() error {
	_ = syscall.Unlink(s.cfg.Socket) // left over from before Stop
	ln, err := net.Listen("unix", s.cfg.Socket)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	s.wg.Add(1)
	go s.accept(ln)
	return nil
}

func (s *Server) accept(ln net.Listener) {
	defer s.wg.Done()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.ln != ln {
			s.mu.Unlock()
			_ = conn.Close()
			continue
		}
		s.conns[conn] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			s.ServeConn(conn)
		}()
	}
}

// Stop dies like a killed process: listener and connections are gone at once,
// whatever was being answered.
func (s *Server) Stop() {
	s.mu.Lock()
	ln := s.ln
	s.ln = nil
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	if ln != nil {
		_ = ln.Close()
	}
	s.wg.Wait()
}

// ServeConn serves one connection until it ends, and closes it.
func (s *Server) ServeConn(conn net.Conn) {
	c := &session{s: s, conn: conn, fids: make(map[uint32]*fid), live: make(map[uint16]*bool), msize: s.cfg.MSize}
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		c.wg.Wait()
		c.closeFids()
	}()
	br := bufio.NewReader(conn)
	for {
		var h [7]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return
		}
		size := binary.LittleEndian.Uint32(h[:])
		if size < 7 || size > s.cfg.MSize {
			return
		}
		body := make([]byte, size-7)
		if _, err := io.ReadFull(br, body); err != nil {
			return
		}
		typ, tag := h[4], binary.LittleEndian.Uint16(h[5:])
		s.Requests.Add(1)
		s.ByType[typ].Add(1)
		flushed := new(bool)
		c.mu.Lock()
		c.live[tag] = flushed
		c.mu.Unlock()
		if !s.cfg.Unordered && s.hook.Load() == nil {
			c.serve(typ, tag, body, flushed)
			continue
		}
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			c.serve(typ, tag, body, flushed)
		}()
	}
}

func (c *session) serve(typ uint8, tag uint16, body []byte, flushed *bool) {
	if h := c.s.hook.Load(); h != nil && typ != 100 && typ != 108 {
		errno, drop := (*h)(Request{Type: typ, Tag: tag, Path: c.hookPath(body)})
		c.mu.Lock()
		gone := *flushed
		c.mu.Unlock()
		if drop || gone {
			return
		}
		if errno != 0 {
			c.reply(flushed, tag, 7, binary.LittleEndian.AppendUint32(nil, uint32(errno)))
			return
		}
	}
	out, err := c.handle(typ, &reader{b: body})
	if err != nil {
		c.reply(flushed, tag, 7, binary.LittleEndian.AppendUint32(nil, uint32(errnoOf(err))))
		return
	}
	c.reply(flushed, tag, typ+1, out)
}

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}

func (c *session) reply(flushed *bool, tag uint16, typ uint8, body []byte) {
	out := make([]byte, 7, 7+len(body))
	binary.LittleEndian.PutUint32(out, uint32(7+len(body)))
	out[4] = typ
	binary.LittleEndian.PutUint16(out[5:], tag)
	out = append(out, body...)
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	skip := *flushed
	if c.live[tag] == flushed {
		delete(c.live, tag)
	}
	c.mu.Unlock()
	if skip {
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	_, _ = c.conn.Write(out) // a dead connection is noticed by the reader
}
