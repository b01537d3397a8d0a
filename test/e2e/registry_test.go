package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

func TestThroughRegistry(t *testing.T) {
	one, two := newHost(t, "docker-registry"), newHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	name := registry.Host + "/team/counter:v1"

	c := one.start("c", counts("--children", "1", "--deleted"))
	path := c.export("c.tar", "--base", one.built.base)
	pushed := one.ok("push", "--plain-http", path, name).line()
	if !strings.Contains(pushed, "sha256:") {
		t.Errorf("push prints %q, want a digest", pushed)
	}
	digest := pushed[strings.Index(pushed, "sha256:"):]

	// The second host has nothing of the first but the base.
	base := two.copyBase(two.path("base"))
	if got := two.ok("pull", "--plain-http", name).line(); !strings.Contains(got, digest) {
		t.Errorf("pull prints %q, want the digest %s", got, digest)
	}
	type named struct{ Name, Digest string }
	if got, want := decode[[]named](two.ok("list", "--json")), (named{name, digest}); len(got) != 1 || got[0] != want {
		t.Errorf("the store has %v, want %v", got, want)
	}
	two.ok("verify", name)
	file := two.path("pulled.tar")
	two.ok("pull", "--plain-http", name, file)
	if readFile(t, file) != readFile(t, path) {
		t.Error("the pulled file is not the exported one")
	}
	two.ok("pull", "--plain-http", "--compress", "none", registry.Host+"/team/counter@"+digest, two.path("by-digest.tar"))
	if readFile(t, two.path("by-digest.tar")) != readFile(t, path) {
		t.Error("the file that was pulled by digest is not the exported one")
	}
	two.restore("r", name, "--base", base).wellFrom(c)
	two.restore("d", file, "--engine", "direct", "--base", base).wellFrom(c)
}

func TestRestoreFromRegistry(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			one, two := newHost(t, "docker-registry"), newHost(t)
			registry := env.Registry(t, env.RegistryOptions{})
			name := registry.Host + "/counter:v1"
			c := one.start("c", counts())
			// A name is the local store; push sends it on.
			digest := one.ok("export", "--base", one.built.base, c.id, name).line()
			if !strings.HasPrefix(digest, "sha256:") {
				t.Errorf("export to the store prints %q, want a digest", digest)
			}
			if got := one.ok("push", "--plain-http", name, name).line(); !strings.Contains(got, digest) {
				t.Errorf("push prints %q, want the digest %s", got, digest)
			}
			pages := one.rebuilt(name)
			two.restoreRefused("no", []string{"--plain-http", "--pull", "never", "--base", two.built.base, name}, 4, name)
			two.restore("r", name, "--engine", engine, "--plain-http", "--base", two.built.base).wellFrom(c)
			two.restore("always", name, "--engine", engine, "--plain-http", "--pull", "always", "--base", two.built.base).wellFrom(c)
			if got := two.rebuilt(name); !maps.Equal(got, pages) {
				t.Errorf("the pages files are %v here, %v where they were dumped", got, pages)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	h := newHost(t, "docker-registry", "htpasswd")
	registry := env.Registry(t, env.RegistryOptions{User: "alice", Password: "right word"})
	name := registry.Host + "/counter:v1"
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--leave-running", "--base", h.built.base)

	auth := h.path("auth.json")
	h.extra = append(h.extra, "REGISTRY_AUTH_FILE="+auth)
	h.run("push", "--plain-http", path, name).refused(9, "ckarchive login")
	h.runWith("wrong word", "login", "--plain-http", "-u", "alice", "--password-stdin", registry.Host).refused(9)
	if exists(t, auth) && strings.Contains(readFile(t, auth), registry.Host) {
		t.Error("a wrong password was stored")
	}
	if o := h.runWith("right word\n", "login", "--plain-http", "-u", "alice", "--password-stdin", registry.Host).want(0); strings.Contains(o.stdout+o.stderr, "right word") {
		t.Errorf("the password is shown: %s", o)
	}
	info, err := os.Stat(auth)
	must(t, err)
	if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
		t.Errorf("mode of the credentials: %v, want %v", got, want)
	}
	h.ok("push", "--plain-http", path, name)
	h.ok("inspect", "--plain-http", "--pull", "always", name)
	h.run("pull", "--plain-http", registry.Host+"/counter:v2").refused(4, "hint: the registry has no such")
	h.ok("logout", registry.Host)
	if strings.Contains(readFile(t, auth), registry.Host) {
		t.Error("the credentials are still there after logout")
	}
	other := registry.Host + "/other:v1"
	h.run("push", "--plain-http", path, other).refused(9)
	h.run("pull", "--plain-http", name, h.path("pulled.tar")).refused(9)
	if exists(t, h.path("pulled.tar")) {
		t.Error("a file was left")
	}
	c.unharmed()
}

func TestRegistryGoesAway(t *testing.T) {
	h, fresh := newHost(t, "docker-registry"), newHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	c := h.start("c", counts("--memory", "16"))
	path := c.export("c.tar", "--leave-running", "--base", h.built.base)

	const enough = 4 << 20
	up := env.Sever(t, registry.Host, enough, nil)
	h.run("push", "--plain-http", path, up.Host+"/counter:v1").refused(9)
	if tags := entries(t, filepath.Join(registry.Dir, "docker/registry/v2/repositories/counter/_manifests/tags")); len(tags) > 0 {
		t.Errorf("the registry has the tags %q of what was not pushed whole", tags)
	}
	h.ok("push", "--plain-http", path, registry.Host+"/counter:v1")

	down := env.Sever(t, registry.Host, enough, nil)
	name := down.Host + "/counter:v1"
	file := fresh.path("pulled.tar")
	fresh.run("pull", "--plain-http", name, file).refused(9)
	if exists(t, file) {
		t.Error("half a file was left")
	}
	// Now nobody listens at all.
	fresh.run("pull", "--plain-http", name).refused(9, "refused")
	fresh.run("pull", "--plain-http", name, file).refused(9, "refused")
	fresh.restoreRefused("no", []string{"--plain-http", "--base", h.built.base, name}, 9, "refused")
	h.run("push", "--plain-http", path, name).refused(9, "refused")
	if left := entries(t, fresh.path()); len(left) > 0 {
		for _, e := range left {
			if strings.HasPrefix(e, ".") || strings.HasPrefix(e, "pulled") {
				t.Errorf("left behind: %s", e)
			}
		}
	}
	if got := strings.TrimSpace(fresh.ok("--json", "list").stdout); got != "[]" {
		t.Errorf("the store has %s, want nothing", got)
	}
	// And an export to a name needs no registry.
	h.ok("export", "--leave-running", "--base", h.built.base, c.id, name)
	c.unharmed()
}

func TestLayouts(t *testing.T) {
	for _, form := range []string{"native", "image"} {
		t.Run(form, func(t *testing.T) { throughLayouts(t, form) })
	}
}

func throughLayouts(t *testing.T, form string) {
	t.Helper()
	h := newHost(t, "docker-registry", "skopeo")
	registry := env.Registry(t, env.RegistryOptions{})
	c := h.start("c", counts())
	layout := "oci:" + h.path("layout") + ":v1"
	digest := h.ok("export", "--leave-running", "--to", form, "--base", h.built.base, c.id, layout).line()
	path := c.export("c.tar.gz", "--leave-running", "--base", h.built.base)
	name := registry.Host + "/counter:v1"
	for _, step := range [][]string{
		{"push", layout, name},
		{"pull", name},
		{"push", name, "oci:" + h.path("second") + ":v1"},
		{"push", "oci:" + h.path("second") + ":v1", "oci-archive:" + h.path("third.tar") + ":v1"},
		{"push", "oci-archive:" + h.path("third.tar") + ":v1", registry.Host + "/fourth:v1"},
		{"pull", registry.Host + "/fourth:v1", "oci:" + h.path("fifth") + ":v1"},
	} {
		got := h.ok(append([]string{step[0], "--plain-http"}, step[1:]...)...).line()
		if !strings.Contains(got, digest) {
			t.Errorf("%s prints %q, want the digest %s", strings.Join(step, " "), got, digest)
		}
	}
	h.ok("push", path, "oci:"+h.path("layout")+":v2")
	h.ok("verify", "oci:"+h.path("layout")+":v2")
	// A file in the way is not replaced unasked.
	h.run("push", path, "oci-archive:"+h.path("third.tar")+":v1").refused(5, "--force")
	h.ok("push", "--force", path, "oci-archive:"+h.path("third.tar")+":v1")

	for i, src := range []string{layout, "oci:" + h.path("fifth") + ":v1", "oci-archive:" + h.path("third.tar") + ":v1"} {
		h.ok("verify", src)
		h.rebuilt(src)
		r := h.restore(fmt.Sprint(i), src, "--base", h.built.base)
		r.awaitTicks(3)
		r.wellBehaved()
	}

	// skopeo copies both and keeps their digest. It shows images only: the native form's config is none of an image.
	if form == "image" {
		var image struct{ Digest string }
		must(t, json.Unmarshal([]byte(command(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+name)), &image))
		if image.Digest != digest {
			t.Errorf("skopeo says the digest is %s, want %s", image.Digest, digest)
		}
	}
	command(t, "skopeo", "copy", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false", "docker://"+name, "oci:"+h.path("skopeo")+":v1")
	copied := struct{ Manifests []struct{ Digest string } }{}
	must(t, json.Unmarshal([]byte(readFile(t, h.path("skopeo/index.json"))), &copied))
	if len(copied.Manifests) != 1 || copied.Manifests[0].Digest != digest {
		t.Errorf("skopeo has copied %v, want %s", copied, digest)
	}
	r := h.restore("skopeo", "oci:"+h.path("skopeo")+":v1", "--base", h.built.base)
	r.awaitTicks(3)
	r.wellBehaved()
	c.unharmed()
}
