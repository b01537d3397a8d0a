package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

func TestSandboxFlags(t *testing.T) {
	const always = "restore-spec-validation=warning"
	for _, tt := range []struct {
		name   string
		dumped *archive.Sandbox
		given  []string
		want   []string // nil: refused
	}{
		{"unknown", nil, nil, []string{always}},
		{"as dumped", &archive.Sandbox{Network: "none", Overlay: "root:self", Platform: "ptrace"}, nil, []string{always, "network=none", "overlay2=root:self"}},
		{"own stack", &archive.Sandbox{Network: "sandbox", Overlay: "all:memory,size=1g"}, nil, []string{always, "network=sandbox", "overlay2=all:memory,size=1g"}},
		{"no overlay", &archive.Sandbox{Overlay: "none"}, nil, []string{always, "overlay2=none"}},
		{"host's network", &archive.Sandbox{Network: "host"}, nil, nil},
		{"host's network granted", &archive.Sandbox{Network: "host"}, []string{"network=host"}, []string{always, "network=host"}},
		{"other network", &archive.Sandbox{Network: "none"}, []string{"network=sandbox"}, []string{always, "network=sandbox"}},
		{"host's directory", &archive.Sandbox{Overlay: "root:dir=/etc"}, nil, nil},
		{"host's directory in disguise", &archive.Sandbox{Overlay: "root:self,size=1g,dir=/etc"}, nil, nil},
		{"another flag", &archive.Sandbox{Network: "none --debug"}, nil, nil},
		{"strict", nil, []string{"restore-spec-validation=enforce", "debug"}, []string{"restore-spec-validation=enforce", "debug"}},
	} {
		got, err := sandboxFlags(tt.dumped, tt.given)
		if tt.want == nil {
			if status, hint := statusOf(err); status != exitEnvironment || !strings.Contains(hint, "--runtime-flag") {
				t.Errorf("%s: error %v, status %d, hint %q; want that it has to be granted", tt.name, err, status, hint)
			}
			continue
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

// No option of CRIU reaches a sandbox, and none is passed over in silence.
func TestSandboxTakesNoCRIUOptions(t *testing.T) {
	runsc := fakeRuntime(t, "runsc")
	for _, o := range restoreOptions() {
		if why := o.refusal(runsc); (why == "") != (o.route == bySpec) {
			t.Errorf("--%s: %q", o.flag, why)
		}
	}
	r := parseRestore(t, "--runtime-flag", "network=host")
	r.meta.Format = archive.FormatCRIU
	var usage *usageError
	if _, err := r.checkSandbox(t.Context()); !errors.As(err, &usage) {
		t.Errorf("--runtime-flag for images of CRIU: %v, want a usage error", err)
	}
}
