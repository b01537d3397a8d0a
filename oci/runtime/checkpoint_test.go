package runtime

import (
	"slices"
	"strings"
	"testing"
)

// TestCheckpointArgs wants every option that a runtime has on its command line.
func TestCheckpointArgs(t *testing.T) {
	plain := CheckpointOptions{ImagesDir: "/i", WorkDir: "/w", LogPath: "/l"}
	want := strings.Fields("--log /l checkpoint --leave-running --image-path /i --work-path /w")
	if got := plain.args("checkpoint"); !slices.Equal(got, want) {
		t.Errorf("without options: %q, want %q", got, want)
	}
	for option, words := range map[string]string{
		"tcp-established=true": "--tcp-established", "tcp-skip-in-flight=true": "--tcp-skip-in-flight", "ext-unix-sk=true": "--ext-unix-sk",
		"shell-job=true": "--shell-job", "file-locks=true": "--file-locks", "link-remap=true": "--link-remap",
		"manage-cgroups-mode=full": "--manage-cgroups-mode full", "empty-ns=network": "--empty-ns network", "network-lock=nftables": "--network-lock nftables",
		"pre-dump=true": "--pre-dump", "parent=../p": "--parent-path ../p", "auto-dedup=true": "--auto-dedup", "page-server=127.0.0.1:1": "--page-server 127.0.0.1:1",
	} {
		name, value, _ := strings.Cut(option, "=")
		o := plain
		o.Options = map[string]string{name: value}
		if got, want := o.args("checkpoint"), append(slices.Clone(want), strings.Fields(words)...); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
}

// TestMissingOptions asks the table and the help text: a kind may have an option that this one is too old for.
func TestMissingOptions(t *testing.T) {
	const runc = `OPTIONS:
   --tcp-established            allow open tcp connections
   --file-locks                 handle file locks, for safety
   --empty-ns value             create a namespace, but don't restore its properties
   --network-lock               made up: the table says no
`
	for _, tt := range []struct{ runtime, options, want string }{
		{"runc", "tcp-established", ""},
		{"runc", "tcp-established file-locks empty-ns", ""},
		{"crun", "tcp-established empty-ns", "empty-ns"},
		{"runc", "tcp-skip-in-flight link-remap", "link-remap tcp-skip-in-flight"},
		{"runc", "network-lock", "network-lock"},
		{"runc", "ghost-limit tcp-close file-locks", "ghost-limit tcp-close"},
		{"runsc", "file-locks", "file-locks"},
	} {
		options := map[string]string{}
		for name := range strings.FieldsSeq(tt.options) {
			options[name] = "true"
		}
		if got := strings.Join(missingOptions(tt.runtime, runc, options), " "); got != tt.want {
			t.Errorf("%s with %s lacks %q, want %q", tt.runtime, tt.options, got, tt.want)
		}
	}
}
