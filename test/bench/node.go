package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// node is such a server of Node.js.
type node struct {
	web
	program string
}

var _ workload = (*node)(nil)

func newNode(ctx context.Context, mib int) (*node, error) {
	w, err := newWeb(ctx, mib)
	return &node{web: w}, err
}

const nodeServer = `const known = new Map();
require("http").createServer((request, response) => {
	const url = new URL(request.url, "http://localhost");
	const count = Number(url.searchParams.get("n")), all = Number(url.searchParams.get("of"));
	for (let i = 0; i < count; i++) {
		const key = count === all ? i : Math.floor(Math.random() * all);
		known.set("key" + key, { id: key, score: Math.random(), name: "entry " + Math.random(), tags: ["alpha", "beta", String(i)] });
	}
	let sum = 0;
	if (url.pathname === "/sum") for (const value of known.values()) sum += value.score;
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
