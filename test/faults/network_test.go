package faults

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// A proxy that wants credentials, or others, is told of without those that it was given.
func TestProxyWantsLogin(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	dir := place(t)
	at := strings.TrimPrefix(proxy.URL, "http://")
	for _, line := range []string{"pull registry.example/x:1 ./pulled.tar", "push ./c.tar.zst registry.example/x:1"} {
		said, _ := shell(t, dir, "export HTTPS_PROXY=http://"+user+":"+password+"@"+at+`; "$CKARCHIVE" `+line+"; echo status $?", false)
		if !strings.Contains(said, "status 9") || !strings.Contains(said, "the proxy "+at+" wants a user and a password") || strings.Contains(said, password) {
			t.Errorf("%s: %s", line, said)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "pulled.tar")); err == nil {
		t.Error("something was pulled")
	}
}

// Name servers that do not answer end a transfer within its deadlines.
func TestNameServersThatAreSilent(t *testing.T) {
	env.Require(t, "root")
	t.Parallel() // it waits
	dir := place(t)
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 10.9.9.2\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A network of its own whose other end takes everything and says nothing.
	said, err := shell(t, dir, `exec unshare --net --mount sh -c '
		ip link add here type veth peer name there && ip addr add 10.9.9.1/24 dev here && ip link set here up && ip link set there up &&
		ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev here && mount --bind resolv.conf /etc/resolv.conf || exit 1
		"$CKARCHIVE" pull registry.example/x:1 ./pulled.tar; echo status $?'`, false)
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if !strings.Contains(said, "status 9") || !strings.Contains(said, "lookup registry.example on 10.9.9.2:53") || strings.Count(said, "i/o timeout") < 2 {
		t.Error(said)
	}
	if _, err := os.Lstat(filepath.Join(dir, "pulled.tar")); err == nil {
		t.Error("something was pulled")
	}
}
