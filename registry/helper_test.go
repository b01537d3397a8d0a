package registry

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What a helper answered is known when it can no longer be started, be it credentials or an error.
func TestAskHelpers(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"good": `printf '{"Username":"helper","Secret":"pw"}'`,
		"bad":  `echo no; exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	path := filepath.Join(dir, "config.json")
	writeAuth(t, path, `{"auths":{"plain.test":{"username":"plain","password":"pw"}},"credHelpers":{"good.test":"good","bad.test":"bad"}}`)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	warned := 0
	c, _ := newTestClient(ClientOptions{AuthFile: path, CAFile: "/ca", OnWarning: func(string) { warned++ }})
	refs := map[string]Reference{}
	for _, host := range []string{"good.test", "bad.test", "plain.test"} {
		refs[host] = Reference{Host: host, Repository: "a"}
		c.AskHelpers(t.Context(), refs[host])
	}
	if warned > 0 {
		t.Errorf("%d warnings before a registry is asked", warned)
	}
	for _, name := range []string{"good", "bad"} {
		if err := os.Remove(filepath.Join(dir, "docker-credential-"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for host, user := range map[string]string{"good.test": "helper", "plain.test": "plain"} {
		if cred, err := c.credential(t.Context(), refs[host]); err != nil || cred.Username != user {
			t.Errorf("%s: %q, %v, want %q", host, cred.Username, err, user)
		}
	}
	if _, err := c.credential(t.Context(), refs["bad.test"]); !errors.Is(err, ErrAuthFile) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("bad.test: %v, want what the helper said", err)
	}
	for _, want := range []string{path, "/ca", "/etc/containers/certs.d"} {
		if !slices.Contains(c.Reads(), want) {
			t.Errorf("%s is not among what is read: %q", want, c.Reads())
		}
	}
}
