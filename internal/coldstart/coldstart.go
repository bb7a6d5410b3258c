// Package coldstart measures what it takes to start a container from an image
// that a containerd has never seen: pull, create, and run up to the first line
// of output, each on its own, for any snapshotter.
//
// It drives containerd through its client library as nerdctl does, with the
// labels that a remote snapshotter needs, and leaves nothing behind: container,
// snapshot and image are removed again.
package coldstart

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// Spec says what to start and where.
type Spec struct {
	Address     string // containerd's socket
	Namespace   string // "nineply-coldstart" if empty
	Snapshotter string
	Ref         string
	Args        []string // command instead of the image's own
	PlainHTTP   bool
	Keep        bool // leave the image for a later start
	// AtPull, when not nil, is called when the image is there and nothing was
	// created from it.
	AtPull func()
	// AtLine, when not nil, is called as soon as the first line was read, while
	// the container may still run.
	AtLine func()
	// Stderr receives what the container prints there; nil drops it.
	Stderr io.Writer
}

// Result is one start. Times are seconds.
type Result struct {
	Line   string  `json:"line"`
	Pull   float64 `json:"pull_s"`
	Create float64 `json:"create_s"`
	Run    float64 `json:"run_s"` // from start to the end of the first line
	Total  float64 `json:"total_s"`
	Exit   uint32  `json:"-"`
}

// Run starts one container and removes it.
func Run(ctx context.Context, s Spec) (res Result, err error) {
	client, err := containerd.New(s.Address)
	if err != nil {
		return res, fmt.Errorf("containerd at %s: %w", s.Address, err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	ns := s.Namespace
	if ns == "" {
		ns = "nineply-coldstart"
	}
	ctx = namespaces.WithNamespace(ctx, ns)

	began := time.Now()
	img, err := pull(ctx, client, s)
	if err != nil {
		return res, fmt.Errorf("pulling %s: %w", s.Ref, err)
	}
	if !s.Keep {
		defer func() { err = errors.Join(err, remove(ctx, client, img.Name())) }()
	}
	pulled := time.Now()
	res.Pull = pulled.Sub(began).Seconds()
	if s.AtPull != nil {
		s.AtPull()
		pulled = time.Now()
	}
	if err := start(ctx, client, img, s, pulled, &res); err != nil {
		return res, fmt.Errorf("starting %s: %w", s.Ref, err)
	}
	res.Total = res.Pull + res.Create + res.Run
	return res, nil
}

// pull fetches and unpacks the image, or has it served lazily.
func pull(ctx context.Context, client *containerd.Client, s Spec) (containerd.Image, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(func(string) (bool, error) { return s.PlainHTTP, nil })),
	})
	return client.Pull(ctx, s.Ref,
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(s.Snapshotter),
		containerd.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(s.Ref)),
	)
}

// Remove deletes an image that was kept, and collects what it held.
func Remove(ctx context.Context, s Spec) (err error) {
	client, err := containerd.New(s.Address)
	if err != nil {
		return fmt.Errorf("containerd at %s: %w", s.Address, err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return remove(namespaces.WithNamespace(ctx, s.Namespace), client, s.Ref)
}

func remove(ctx context.Context, client *containerd.Client, name string) error {
	ctx = context.WithoutCancel(ctx)
	err := client.ImageService().Delete(ctx, name, images.SynchronousDelete())
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing image %s: %w", name, err)
	}
	return nil
}

// start creates the container, runs it to its first line and then to its end.
func start(ctx context.Context, client *containerd.Client, img containerd.Image, s Spec, pulled time.Time, res *Result) (err error) {
	ctx, done, err := client.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	id := "coldstart-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	specOpts := []oci.SpecOpts{oci.WithImageConfig(img), oci.WithHostNamespace("network")}
	if len(s.Args) > 0 {
		specOpts = append(specOpts, oci.WithProcessArgs(s.Args...))
	}
	container, err := client.NewContainer(ctx, id,
		containerd.WithImage(img),
		containerd.WithSnapshotter(s.Snapshotter),
		containerd.WithNewSnapshot(id, img),
		containerd.WithNewSpec(specOpts...),
	)
	if err != nil {
		return fmt.Errorf("creating the container: %w", err)
	}
	defer func() {
		err = errors.Join(err, container.Delete(context.WithoutCancel(ctx), containerd.WithSnapshotCleanup))
	}()
	return runTask(ctx, container, s, pulled, res)
}

func runTask(ctx context.Context, container containerd.Container, s Spec, pulled time.Time, res *Result) (err error) {
	stdout, w := io.Pipe()
	stderr := s.Stderr
	if stderr == nil {
		stderr = io.Discard
	}
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, w, stderr)))
	if err != nil {
		return fmt.Errorf("creating the task: %w", err)
	}
	defer func() {
		_, derr := task.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
		if derr != nil && !errdefs.IsNotFound(derr) {
			err = errors.Join(err, fmt.Errorf("deleting the task: %w", derr))
		}
	}()
	exited, err := task.Wait(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the task: %w", err)
	}
	created := time.Now()
	res.Create = created.Sub(pulled).Seconds()
	if err := task.Start(ctx); err != nil {
		return fmt.Errorf("starting the task: %w", err)
	}
	lines := make(chan string, 1)
	go firstLine(stdout, lines)
	return await(ctx, task, exited, lines, w, created, s, res)
}

// firstLine sends the first line of r and reads on to its end, so that the
// container never blocks on a full pipe. It ends when r is closed.
func firstLine(r io.Reader, lines chan<- string) {
	br := bufio.NewReader(r)
	line, err := br.ReadString('\n')
	if err == nil {
		lines <- line[:len(line)-1]
	}
	close(lines)
	_, _ = io.Copy(io.Discard, br) // ends with the pipe
}

func await(ctx context.Context, task containerd.Task, exited <-chan containerd.ExitStatus, lines <-chan string, w *io.PipeWriter, created time.Time, s Spec, res *Result) error {
	var status containerd.ExitStatus
	gone := false
	for res.Line == "" {
		select {
		case line, ok := <-lines:
			if !ok {
				return fmt.Errorf("the container ended with status %d before it printed a line", status.ExitCode())
			}
			res.Line, res.Run = line, time.Since(created).Seconds()
			if s.AtLine != nil {
				s.AtLine()
			}
		case status = <-exited:
			// What it printed is still on its way through the pipe.
			gone, exited = true, nil
			task.IO().Wait()
			_ = w.Close() // ends firstLine
		case <-ctx.Done():
			_ = w.CloseWithError(ctx.Err())
			return errors.Join(ctx.Err(), ignoreGone(task.Kill(context.WithoutCancel(ctx), syscall.SIGKILL)))
		}
	}
	if !gone {
		select {
		case status = <-exited:
		case <-ctx.Done():
			_ = w.CloseWithError(ctx.Err())
			return ctx.Err()
		}
		task.IO().Wait()
		_ = w.Close() // ends firstLine
	}
	res.Exit = status.ExitCode()
	if err := status.Error(); err != nil {
		return err
	}
	if res.Exit != 0 {
		return fmt.Errorf("the container ended with status %d", res.Exit)
	}
	return nil
}

func ignoreGone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
