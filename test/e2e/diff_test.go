package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/env"
)

// differed is what diff tells of memory and files.
type differed struct {
	Equal  bool `json:"equal"`
	Memory struct {
		Same     int64 `json:"same"`
		Changed  int64 `json:"changed"`
		Mappings []struct {
			PID     uint32 `json:"pid"`
			Name    string `json:"name"`
			Changed int64  `json:"changed"`
		} `json:"mappings"`
	} `json:"memory"`
	Files []struct {
		Change string `json:"change"`
		Name   string `json:"name"`
	} `json:"files"`
}

// TestDiff compares a container that goes on counting with what it was, by streams and by indexes.
func TestDiff(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1"))
	one := c.export("one.tar.zst", "--leave-running", "--base", h.built.base)
	c.awaitTicks(3)
	two := c.export("two.tar.zst", "--leave-running", "--base", h.built.base)
	h.ok("import", one, "c:1")
	h.ok("import", two, "c:2")

	files := decode[differed](h.ok("--json", "diff", one, two))
	stored := decode[differed](h.ok("--json", "diff", "c:1", "c:2"))
	mixed := decode[differed](h.ok("--json", "diff", "c:1", two))
	for name, got := range map[string]differed{"files": files, "stored": stored, "mixed": mixed} {
		if got.Equal || got.Memory.Changed == 0 || got.Memory.Same == 0 {
			t.Errorf("%s: %+v, want memory that is the same and memory that changed", name, got.Memory)
		}
		if got.Memory.Changed != files.Memory.Changed || got.Memory.Same != files.Memory.Same {
			t.Errorf("%s: %d pages changed and %d did not, of files %d and %d", name, got.Memory.Changed, got.Memory.Same, files.Memory.Changed, files.Memory.Same)
		}
		if !slices.ContainsFunc(got.Memory.Mappings, func(m struct {
			PID     uint32 `json:"pid"`
			Name    string `json:"name"`
			Changed int64  `json:"changed"`
		},
		) bool {
			return m.PID == 1 && m.Changed > 0
		}) {
			t.Errorf("%s: nothing of the counter changed: %+v", name, got.Memory.Mappings)
		}
	}
	h.run("diff", "--exit-code", one, two).want(1)
	if o := h.ok("diff", "--exit-code", one, "c:1"); o.stdout != "" {
		t.Errorf("a file and its copy in the store differ: %s", o)
	}
	// Images of tasks that an earlier dump left behind, which name pages files of others: in Podman's archives.
	left := h.path("left.tar.zst")
	reforge(t, one, left, func(dir string, _ *archive.Metadata) {
		of := readFile(t, filepath.Join(dir, archive.Image("pagemap-1.img")))
		for pid := range 8 {
			writeFile(t, filepath.Join(dir, archive.Image(fmt.Sprintf("pagemap-%d.img", 30000+pid))), of)
		}
	})
	if got := decode[differed](h.ok("--json", "diff", one, left)).Memory; got.Changed != 0 || got.Same != files.Memory.Same+files.Memory.Changed || len(got.Mappings) != 0 {
		t.Errorf("with page maps of tasks that are no more: %+v", got)
	}
	c.unharmed()
}

// TestSchemas holds what is printed of a real checkpoint and of its container against docs/schemas.
func TestSchemas(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1", "--tcp"))
	one := c.export("one.tar.zst", "--leave-running", "--tcp-established", "--base", h.built.base)
	two := c.export("two.tar.zst", "--leave-running", "--tcp-established", "--base", h.built.base)
	inspected := h.ok("--json", "inspect", "--tree", "--env", one).stdout
	var in struct {
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(inspected), &in); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ schema, document string }{
		{"export.json", h.ok("--json", "export", "--leave-running", "--stats", "--tcp-established", "--base", h.built.base, c.id, "c:1").stdout},
		{"containers.json", h.ok("--json", "list", "--containers").stdout},
		{"recover.json", h.ok("--json", "recover").stdout},
		{"error.json", h.run("--json", "export", h.id("none"), h.path("no.tar")).stderr},
		{"inspect.json", inspected},
		{"ckarchive.json", string(in.Metadata)},
		{"diff.json", h.ok("--json", "diff", one, two).stdout},
		{"check.json", h.run("--json", "check", c.id).stdout},
		{"check.json", h.run("--json", "check", one).stdout},
		{"check.json", h.run("--json", "check").stdout},
	} {
		compiler := jsonschema.NewCompiler()
		compiler.AssertFormat()
		schema, err := compiler.Compile(filepath.Join("..", "..", "docs", "schemas", tt.schema))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(tt.document))
		if err != nil {
			t.Fatalf("%v: %s", err, tt.document)
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %v", tt.schema, err)
		}
	}
	c.unharmed()
}

// TestCheckpointctlPlugin looks at a checkpoint in a registry with checkpointctl, which starts every plugin at each call.
func TestCheckpointctlPlugin(t *testing.T) {
	h := newHost(t, "checkpointctl", "docker-registry")
	checkpointctl := env.Program(t, "checkpointctl")
	bin := h.path("bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"checkpointctl-ckarchive": h.built.ckarchive, "checkpointctl": checkpointctl} {
		if err := os.Symlink(to, filepath.Join(bin, link)); err != nil {
			t.Fatal(err)
		}
	}
	plugin := func(args ...string) string {
		t.Helper()
		// Traced, to see which programs it starts.
		trace := h.path("trace")
		cmd := exec.Command(env.Program(t, "strace"), append([]string{"-f", "-qq", "-e", "trace=execve", "-o", trace, filepath.Join(bin, "checkpointctl")}, args...)...)
		cmd.Env = append(h.environ(), "PATH="+bin, "CKARCHIVE_PLAIN_HTTP=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("checkpointctl %q: %v: %s", args, err, out)
		}
		content, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		started := bytes.Count(content, []byte("execve("))
		if want := 3; started > want { // itself, the plugin for its description, the plugin
			t.Errorf("checkpointctl %q starts %d programs, want at most %d: %s", args, started, want, content)
		}
		return string(out)
	}
	if got := plugin("plugin", "list"); !strings.Contains(got, "Inspect, compare, verify") {
		t.Errorf("the plugin is not described: %s", got)
	}
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--leave-running", "--name", "the-counter", "--base", h.built.base)
	name := env.Registry(t, env.RegistryOptions{}).Host + "/web:1"
	h.ok("push", "--plain-http", path, name)
	if got := plugin("ckarchive", "inspect", "--tree", name); !strings.Contains(got, "the-counter") || !strings.Contains(got, "workload") {
		t.Errorf("inspect of a checkpoint in a registry says %s", got)
	}
	if got := plugin("ckarchive", "-q", "diff", name, path); got != "" {
		t.Errorf("a checkpoint in a registry and the file that it was differ: %s", got)
	}
	c.unharmed()
}
