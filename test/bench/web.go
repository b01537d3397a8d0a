package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// web is a server that keeps a map of 60000 entries at full size: /set?n=COUNT&of=ALL makes so many of them anew,
// / answers, /sum gives a checksum of them all.
type web struct {
	port, entries int
	said          string
}

// newWeb makes one of a size in MiB, of which 1024 is the full one.
func newWeb(ctx context.Context, mib int) (web, error) {
	port, err := freePort(ctx)
	return web{port: port, entries: max(100, 60_000*mib/1024)}, err
}

func (w *web) fill(ctx context.Context) error {
	if _, err := w.answer(ctx, time.Time{}); err != nil {
		return err
	}
	return w.change(ctx, 100)
}

func (w *web) change(ctx context.Context, percent float64) error {
	_, err := w.get(ctx, fmt.Sprintf("/set?n=%d&of=%d", int(percent/100*float64(w.entries)), w.entries))
	return err
}

// get asks once, in a connection of its own: CRIU is not to meet it.
func (w *web) get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", w.port, path), nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(response.Body)
	return string(b), err
}

func (w *web) remember(ctx context.Context) (err error) {
	w.said, err = w.get(ctx, "/sum")
	return err
}

func (w *web) compare(ctx context.Context) error {
	got, err := w.get(ctx, "/sum")
	if err == nil && got != w.said {
		err = fmt.Errorf("the server says %q, it said %q", got, w.said)
	}
	return err
}

func (w *web) answer(ctx context.Context, _ time.Time) (at time.Time, err error) {
	err = await(ctx, "answer of the server", func() (bool, error) {
		_, err := w.get(ctx, "/")
		at = time.Now()
		return err == nil, nil
	})
	return at, err
}
