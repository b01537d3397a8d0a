package interop

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// interfaces are those of a container's network.
func interfaces(t *testing.T, c *env.Container) []string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", c.PID))
	must(t, err)
	names := []string{}
	for line := range strings.Lines(string(content)) {
		if name, _, found := strings.Cut(line, ":"); found {
			names = append(names, strings.TrimSpace(name))
		}
	}
	slices.Sort(names)
	return names
}

// A container with a network of its own goes from Podman to Podman and to a host without it, and from runc to
// Podman. Podman gives its own containers their network again; here the operator names one.
func TestOwnNetwork(t *testing.T) {
	networks := []string{"bridge"}
	if os.Getenv(fullRun) != "" {
		networks = append(networks, "none")
	}
	for version, podman := range podmans() {
		for _, network := range networks {
			t.Run(version+" "+network, func(t *testing.T) { testOwnNetwork(t, podman, network) })
		}
	}
}

func testOwnNetwork(t *testing.T, podman func(testing.TB) *env.Podman, network string) {
	env.Leaks(t, mark())
	h, p := newHost(t), podman(t)
	p.InNetwork(t, mark()+"-podman")
	known := []string{"--base-image", baseImage, "--base-id", p.Image(t, h.base, baseImage)}
	c := startPodman(t, p, "moved", "--network", network)
	want := interfaces(t, c)
	ours, theirs, converted := h.path("ours.tar"), h.path("theirs.tar"), h.path("podman.tar")
	full := p.Run(t, "inspect", "--format", "{{.Id}}", "moved")
	h.beside(p).ok(append([]string{"export", "--leave-running", "--runtime-root", "/run/runc", full, ours}, p.NetworkLock()...)...)
	p.Run(t, "container", "checkpoint", "--export", theirs, "moved")
	p.Run(t, "rm", "--force", "--time", "0", "moved")

	h.ok(append([]string{"convert", "--to", "podman", ours, converted}, known...)...)
	for _, file := range []string{converted, theirs} {
		p.Run(t, "container", "restore", "--import", file)
		r := inPodman(t, p, "moved")
		if tick := r.Verify(t).Tick; tick < 3 {
			t.Errorf("%s: it began anew: tick %d", file, tick)
		}
		if got := interfaces(t, r); !slices.Equal(got, want) {
			t.Errorf("%s: interfaces %q, want %q", file, got, want)
		}
		p.Run(t, "rm", "--force", "--time", "0", "moved")
	}
	flags := []string{}
	if network == "bridge" { // which is of the host's making
		flags = append(flags, "--namespace", "network="+env.NetNS(t, mark()+"-here"))
	}
	for _, by := range []string{"runc", env.Direct} {
		r := h.restoreHere(t, by, theirs, flags...)
		if got := interfaces(t, r); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("%s: interfaces %q, want lo", by, got)
		}
	}
}

// A container of runc that has a network of its own has it in Podman too: with lo alone.
func TestOwnNetworkOfRunc(t *testing.T) {
	for version, podman := range podmans() {
		t.Run(version, func(t *testing.T) { testOwnNetworkOfRunc(t, podman) })
	}
}

func testOwnNetworkOfRunc(t *testing.T, podman func(testing.TB) *env.Podman) {
	env.Leaks(t, mark())
	h, p := newHost(t), podman(t)
	p.InNetwork(t, mark()+"-podman")
	known := []string{"--base-image", baseImage, "--base-id", p.Image(t, h.base, baseImage)}
	c := h.start("plain", env.BundleOptions{Args: workload()})
	h.ok(append([]string{"export", "--base", h.base, "--name", "moved", c.ID, h.path("ours.tar")}, p.NetworkLock()...)...)
	h.ok(append([]string{"convert", "--to", "podman", h.path("ours.tar"), h.path("podman.tar")}, known...)...)
	p.Run(t, "container", "restore", "--import", h.path("podman.tar"))
	r := inPodman(t, p, "moved")
	if tick := r.Verify(t).Tick; tick < 3 {
		t.Errorf("it began anew: tick %d", tick)
	}
	if got := interfaces(t, r); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("interfaces %q, want lo", got)
	}
	if mode := p.Run(t, "inspect", "--format", "{{.HostConfig.NetworkMode}}", "moved"); mode != "none" {
		t.Errorf("Podman says that its network is %q", mode)
	}
	p.Run(t, "rm", "--force", "--time", "0", "moved")
}
