package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// TestBaseImage restores on a host that has the base as an image only, and no engine: in a layout, in a file, and in a
// registry in Docker's form. Another image than the container was started from is refused before anything is made.
func TestBaseImage(t *testing.T) {
	one, two := newHost(t), newHost(t, "docker-registry", "skopeo")
	file, other := two.path("base.tar"), two.path("other.tar")
	id := env.OCIArchive(t, one.built.base, file, "v1")
	changed := two.copyBase(two.path("changed"))
	if err := os.WriteFile(two.path("changed", "more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if env.OCIArchive(t, changed, other, "v1") == id {
		t.Fatal("the other image is the same")
	}
	command(t, "skopeo", "--insecure-policy", "copy", "oci-archive:"+file+":v1", "oci:"+two.path("layout")+":v1")
	inRegistry := env.Registry(t, env.RegistryOptions{}).Host + "/library/base:v1"
	command(t, "skopeo", "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false", "oci-archive:"+file+":v1", "docker://"+inRegistry)

	c := one.start("c", counts("--children", "1", "--deleted"))
	dumped := c.export("dumped.tar.zst", "--base", one.built.base)
	path := two.path("c.tar.zst")
	one.ok("convert", "--base-image", "host.test/library/base:v1", "--base-id", id, dumped, path)
	for name, base := range map[string]string{"layout": "oci:" + two.path("layout") + ":v1", "file": "oci-archive:" + file, "registry": inRegistry} {
		r := two.restore(name, path, "--plain-http", "--base", base)
		r.wellFrom(c)
	}
	all := two.copies("n", 1, 2)
	several := two.ok("--progress", "plain", "restore", "--detach", "--count", "2", "--plain-http", "--id", two.id("n"), "--base", inRegistry, path)
	if n := strings.Count(several.stderr, "base image"); n != 1 {
		t.Errorf("for two containers the base image was unpacked %d times: %s", n, several)
	}
	for _, r := range all {
		r.wellFrom(c)
	}
	for base, says := range map[string]string{
		"oci-archive:" + other:                     "is not the one that the container was started from",
		"oci:" + two.path("layout") + ":v2":        "v2",
		strings.Replace(inRegistry, "v1", "v2", 1): "v2",
		"nowhere": "no such directory",
	} {
		o := two.run("restore", "--detach", "--plain-http", "--id", two.id("no"), "--base", base, path)
		if o.status == 0 || !strings.Contains(o.stderr, says) {
			t.Errorf("--base %s: %s, want %q", base, o, says)
		}
		if _, err := os.Stat(two.path("store", "containers", two.id("no"))); !os.IsNotExist(err) {
			t.Errorf("--base %s left something behind: %v", base, err)
		}
	}
}
