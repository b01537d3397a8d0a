package e2e

import (
	"testing"
)

// inspected is what inspect --json prints, as far as tests look.
type inspected struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Runtime  string `json:"runtime"`
	Metadata struct {
		Container struct {
			Generation int `json:"generation"`
			Processes  int `json:"processes"`
		} `json:"container"`
		Rootfs struct {
			Method  string `json:"method"`
			Files   int    `json:"files"`
			Deleted int    `json:"deleted"`
		} `json:"rootfs"`
		Options map[string]string `json:"options"`
		Stats   *struct {
			PagesWritten int `json:"pagesWritten"`
		} `json:"stats"`
		Externals []external `json:"externals"`
	} `json:"metadata"`
}

func (h *host) inspect(src string) inspected {
	h.t.Helper()
	return decode[inspected](h.ok("inspect", "--json", src))
}

func TestTwoGenerations(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("first", counts("--children", "2", "--tmpfs", "/dev/shm", "--deleted"))
			c.verify()
			for generation, name := range []string{"one", "two"} {
				path := c.export(name+".tar.zst", "--base", h.built.base)
				h.ok("verify", path)
				got := h.inspect(path)
				if got, want := got.Metadata.Container.Generation, generation+1; got != want {
					t.Errorf("generation %d, want %d", got, want)
				}
				if got, want := got.Metadata.Container.Processes, 3; got != want {
					t.Errorf("%d processes, want %d", got, want)
				}
				next := h.restore(name, path, "--engine", engine, "--base", h.built.base)
				next.wellFrom(c)
				c = next
			}
		})
	}
}
