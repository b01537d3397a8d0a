package interop

import (
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// A container of a pod of Podman goes on by itself: Podman restores what it wrote of it into a pod only, and what convert makes
// of that, or of ckarchive's own, as any other container.
func TestPod(t *testing.T) {
	env.Leaks(t, mark())
	h, p := newHost(t), env.NewPodman(t)
	p.InNetwork(t, mark()+"-podman")
	// Podman's own limits for the first container of a pod need more capabilities than this test may have.
	writeFile(t, h.path("containers.conf"), "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n")
	t.Setenv("CONTAINERS_CONF", h.path("containers.conf"))
	known := []string{"--base-image", baseImage, "--base-id", p.Image(t, h.base, baseImage)}
	p.Run(t, "pod", "create", "--name", "pod", "--network", "none", "--infra-image", baseImage, "--infra-command", "/bin/sleep 1000000")
	p.Run(t, "pod", "start", "pod")
	p.Run(t, append([]string{"run", "--detach", "--name", "shop", "--pod", "pod", baseImage}, workload()...)...)
	c := inPodman(t, p, "shop")
	c.WaitTick(t, 3)
	writeFile(t, c.Path("/tmp/new file"), "new")
	ours, theirs := h.path("ours.tar"), h.path("theirs.tar")
	h.ok("export", "--leave-running", "--runtime-root", "/run/runc", p.Run(t, "inspect", "--format", "{{.Id}}", "shop"), ours)
	p.Run(t, "container", "checkpoint", "--export", theirs, "shop")
	p.Run(t, "pod", "rm", "--force", "--time", "0", "pod")
	if said, err := p.Try(t, "container", "restore", "--import", theirs, "--name", "alone"); err == nil || !strings.Contains(said, "--pod") {
		t.Errorf("Podman restores its own without a pod: %v: %s", err, said)
	}
	for _, file := range []string{ours, theirs} {
		converted := file + ".converted.tar"
		h.ok(append([]string{"convert", "--to", "podman", file, converted}, known...)...)
		p.Run(t, "container", "restore", "--import", converted, "--name", "alone")
		r := inPodman(t, p, "alone")
		if tick := r.Verify(t).Tick; tick < 3 {
			t.Errorf("%s: it began anew: tick %d", file, tick)
		}
		wantFile(t, r.Path("/tmp/new file"), "new")
		p.Run(t, "rm", "--force", "--time", "0", "alone")
	}
}
