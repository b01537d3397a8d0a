package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// node is a server of Node.js with a map of objects, 60000 at full size.
type node struct {
	port, entries int
	program, said string
}

var _ workload = (*node)(nil)

// newNode makes one of a size in MiB, of which 1024 is the full one.
func newNode(ctx context.Context, mib int) (*node, error) {
	port, err := freePort(ctx)
	return &node{port: port, entries: max(100, 60_000*mib/1024)}, err
}

// nodeServer keeps a map; /set?n=COUNT&of=ALL sets that many of its entries, / gives a checksum.
const nodeServer = `const known = new Map();
require("http").createServer((request, response) => {
	const url = new URL(request.url, "http://localhost");
	const count = Number(url.searchParams.get("n")), all = Number(url.searchParams.get("of"));
	for (let i = 0; i < count; i++) {
		const key = count === all ? i : Math.floor(Math.random() * all);
		known.set("key" + key, { id: key, score: Math.random(), name: "entry " + Math.random(), tags: ["alpha", "beta", String(i)] });
	}
	let sum = 0;
	for (const value of known.values()) sum += value.score;
	response.end(known.size + " " + sum + "\n");
}).listen(Number(process.argv[2]), "127.0.0.1");
`

func (w *node) install(ctx context.Context, rootfs string) (err error) {
	if w.program, err = installProgram(ctx, rootfs, "node"); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(rootfs, "server.js"), []byte(nodeServer), 0o644)
}

func (w *node) command() []string { return []string{w.program, "/server.js", fmt.Sprint(w.port)} }

func (w *node) env() []string { return []string{"HOME=/tmp", "OPENSSL_CONF=/dev/null"} }

func (w *node) fill(ctx context.Context) error {
	if _, err := w.answer(ctx, time.Time{}); err != nil {
		return err
	}
	return w.change(ctx, 100)
}

func (w *node) change(ctx context.Context, percent float64) error {
	_, err := w.get(ctx, fmt.Sprintf("/set?n=%d&of=%d", int(percent/100*float64(w.entries)), w.entries))
	return err
}

// get asks once, in a connection of its own: CRIU is not to meet it.
func (w *node) get(ctx context.Context, path string) (string, error) {
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

func (w *node) remember(ctx context.Context) (err error) {
	w.said, err = w.get(ctx, "/")
	return err
}

func (w *node) compare(ctx context.Context) error {
	got, err := w.get(ctx, "/")
	if err == nil && got != w.said {
		err = fmt.Errorf("node says %q, it said %q", got, w.said)
	}
	return err
}

func (w *node) answer(ctx context.Context, _ time.Time) (at time.Time, err error) {
	err = await(ctx, "answer of node", func() (bool, error) {
		_, err := w.get(ctx, "/")
		at = time.Now()
		return err == nil, nil
	})
	return at, err
}
