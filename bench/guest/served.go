package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

// serving is what the daemon did for its 9P connections.
type serving struct {
	messages float64
	seconds  float64 // that the timed ones took
	timed    float64
}

func (s serving) since(before serving) serving {
	return serving{s.messages - before.messages, s.seconds - before.seconds, s.timed - before.timed}
}

// served asks the daemon for its metrics.
func (b *bench) served(ctx context.Context) (s serving, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(b.state, "control.sock"))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://nineply/metrics", nil)
	if err != nil {
		return s, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			continue
		}
		switch metric, _, _ := strings.Cut(name, "{"); metric {
		case "nineply_9p_messages_total":
			s.messages += v
		case "nineply_9p_answer_seconds_sum", "nineply_9p_wait_seconds_sum":
			s.seconds += v
		case "nineply_9p_answer_seconds_count", "nineply_9p_wait_seconds_count":
			s.timed += v
		}
	}
	return s, lines.Err()
}
