package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// parseExport parses a command line of export with profiles in dir/ckarchive/profiles.
func parseExport(t *testing.T, config string, args ...string) (*exportCmd, error) {
	t.Helper()
	a := &app{stdout: io.Discard, stderr: io.Discard, getenv: func(name string) string {
		if name == "XDG_CONFIG_HOME" {
			return config
		}
		return ""
	}}
	parser, err := a.newParser()
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"export", "c", "x.tar"}, args...))
	return &a.cli.Export, errors.Join(a.profileErr, err)
}

func writeProfile(t *testing.T, name, text string) (config string) {
	t.Helper()
	config = t.TempDir()
	dir := filepath.Join(config, "ckarchive", "profiles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestProfile(t *testing.T) {
	config := writeProfile(t, "mine", `
description = "for tests"
[options]
tcp-established = true
ghost-limit = "5MiB"
timeout = "90s"
irmap-path = ["/etc", "/srv/a,b"]
network-lock = "skip"
engine = "runtime"
`)
	c, err := parseExport(t, config, "--profile", "mine", "--timeout", "7s", "--network-lock=iptables")
	if err != nil {
		t.Fatal(err)
	}
	if !c.TCPEstablished || c.GhostLimit != "5MiB" || c.Engine != engineRuntime || !reflect.DeepEqual(c.IrmapPath, []string{"/etc", "/srv/a,b"}) {
		t.Errorf("the profile is not taken: %+v", c)
	}
	if c.Timeout != 7*time.Second || c.NetworkLock != "iptables" {
		t.Errorf("timeout %s and lock %s, want those of the command line", c.Timeout, c.NetworkLock)
	}
	if c, err = parseExport(t, config); err != nil || c.TCPEstablished {
		t.Errorf("without --profile: %v, %+v", err, c)
	}
}

// TestProfileOverBuiltin lets a host have its own "server".
func TestProfileOverBuiltin(t *testing.T) {
	config := writeProfile(t, "server", "[options]\ntcp-close = true\n")
	if c, err := parseExport(t, config, "--profile=server"); err != nil || !c.TCPClose || c.TCPEstablished {
		t.Errorf("%v, %+v: want the profile of the user", err, c)
	}
}

func TestBuiltinProfiles(t *testing.T) {
	dest, err := parseLocation("/x.tar")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(builtinNames(), " "); got != "jvm postgres server" {
		t.Errorf("built in are %q", got)
	}
	for _, name := range builtinNames() {
		c, err := parseExport(t, t.TempDir(), "--profile", name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := c.checkFlags(dest); err != nil {
			t.Errorf("%s: its options exclude each other: %v", name, err)
		}
		if _, err := ghostLimit(c.GhostLimit); err != nil || len(c.given()) == 0 {
			t.Errorf("%s: %v, gives %v", name, err, c.given())
		}
	}
}

func TestProfileRefused(t *testing.T) {
	for text, says := range map[string]string{
		"[options]\ntcp-establishd = true\n":               "tcp-establishd",
		"[option]\ntcp-established = true\n":               "option",
		"[options]\nforce = true\n":                        "force",
		"[options]\nprofile = \"server\"\n":                "profile",
		"[options]\nghost-limit = 1.5\n":                   "ghost-limit",
		"[options]\nirmap-path = [1]\n":                    "irmap-path",
		"[options]\nnetwork-lock = \"tape\"\n":             "network-lock",
		"[options\n":                                       "mine.toml",
		"[options]\ntcp-close = true\ntcp-close = false\n": "mine.toml",
	} {
		if _, err := parseExport(t, writeProfile(t, "mine", text), "--profile", "mine"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want an error that says %q", text, err, says)
		}
	}
	for _, name := range []string{"none", "../mine", "/etc/passwd", ".mine"} {
		if _, err := parseExport(t, t.TempDir(), "--profile", name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("--profile %s: %v", name, err)
		}
	}
}
