package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// Commands that run at the same time on one store wait for each other, or say that it is busy: none of them breaks what
// another one does, and gc frees nothing that is being written or sent.
func TestTogether(t *testing.T) {
	registry := env.Registry(t, env.RegistryOptions{})
	dir := storeIn(t)
	rounds := 1
	if full() {
		rounds = 30
	}
	for round := range rounds {
		lines := []string{
			fmt.Sprintf("import --to image ./c.tar.zst a%d:1", round), fmt.Sprintf("import ./c.tar.zst b%d:1", round), fmt.Sprintf("flatten x:1 c%d:1", round),
			fmt.Sprintf("tag x:1 d%d:1", round), "gc", "gc", fmt.Sprintf("push --plain-http y:1 %s/p%d:1", registry.Host, round), "verify y:1", "list", "gc",
		}
		var all sync.WaitGroup
		for _, line := range lines {
			all.Go(func() {
				said, err := shell(t, dir, `"$CKARCHIVE" `+line, false)
				if err != nil && !(line == "gc" && strings.Contains(said, "in use")) {
					t.Errorf("%s: %v: %s", line, err, said)
				}
			})
		}
		all.Wait()
		said, err := shell(t, dir, fmt.Sprintf(`set -e; for n in a%[1]d b%[1]d c%[1]d d%[1]d; do "$CKARCHIVE" verify $n:1; "$CKARCHIVE" rm $n:1; done; "$CKARCHIVE" verify --plain-http --pull always %[2]s/p%[1]d:1`, round, registry.Host), false)
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	if said, err := shell(t, dir, `"$CKARCHIVE" gc; "$CKARCHIVE" verify y:1 && "$CKARCHIVE" gc`, false); err != nil || !strings.Contains(said, "in 0 blobs and 0 unfinished files") {
		t.Errorf("%v: %s", err, said)
	}
}

// A registry that sends drop by drop does not hold anybody for ever: an interrupt ends the transfer at once, and, in the
// long form, time does.
func TestSlowDrip(t *testing.T) {
	real := env.Registry(t, env.RegistryOptions{})
	dir := storeIn(t)
	if said, err := shell(t, dir, `"$CKARCHIVE" push --plain-http x:1 `+real.Host+`/good:1`, false); err != nil {
		t.Fatal(said)
	}
	dripping := make(chan struct{}, 1)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: real.Host})
		p.Out.Host = p.In.Host
	}, ErrorLog: log.New(io.Discard, "", 0)} // whoever gives up is meant to
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !get(blob)(r) {
			proxy.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		proxy.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		for _, b := range rec.Body.Bytes() {
			_, _ = w.Write([]byte{b})
			_ = http.NewResponseController(w).Flush()
			select {
			case dripping <- struct{}{}:
			default:
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	}))
	t.Cleanup(s.Close)
	name := strings.TrimPrefix(s.URL, "http://") + "/good:1"
	var cmd *exec.Cmd
	limit := 10 * time.Minute
	if !full() {
		limit = maxTime
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd = exec.CommandContext(ctx, dir+"/ckarchive", "--root", dir+"/fresh", "pull", "--plain-http", name)
	cmd.Env = environ(dir)
	var said strings.Builder
	cmd.Stderr = &said
	must(t, cmd.Start())
	want := 9
	if !full() {
		<-dripping
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		want = 128 + int(syscall.SIGTERM)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); ctx.Err() != nil || !errors.As(err, &exit) || exit.ExitCode() != want {
		t.Errorf("%v, %v, want status %d: %s", err, ctx.Err(), want, said.String())
	}
	if said, err := shell(t, dir, `"$CKARCHIVE" --root fresh --json list`, false); err != nil || strings.TrimSpace(said) != "[]" {
		t.Errorf("it left %s, %v", said, err)
	}
}

// An output that takes nothing is told of.
func TestFullOutput(t *testing.T) {
	dir := storeIn(t)
	for _, line := range []string{"list", "inspect x:1", "version", "verify x:1", "convert --to universal ./c.tar.zst -"} {
		said, err := shell(t, dir, `"$CKARCHIVE" `+line+` >/dev/full`, false)
		if err == nil || !strings.Contains(said, "no space left on device") {
			t.Errorf("%s: %v, want an error that says it: %s", line, err, said)
		}
	}
	// Nobody reads any more: an error, and no end by a signal in the middle of the work.
	said, err := shell(t, dir, `{ "$CKARCHIVE" convert --to universal ./c.tar.zst -; echo "status $?" >&2; } | head -c 100 >/dev/null`, false)
	if err != nil || !strings.Contains(said, "broken pipe") || !strings.Contains(said, "status 5") {
		t.Errorf("%v: %s", err, said)
	}
}
