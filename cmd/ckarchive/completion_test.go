package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

// TestCompletions: flags of the program and of the verb, with their values, are no arguments, and what is offered replaces what
// the shell says it replaces.
func TestCompletions(t *testing.T) {
	a := &app{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	parser, err := a.newParser()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line, replaced string
		want           []string
	}{
		{"ckarchive ver", "ver", []string{"verify", "version"}},
		{"ckarchive list --cont", "--cont", []string{"--containers"}},
		{"ckarchive --root /x completion ", "", []string{"bash", "fish", "zsh"}},
		{"ckarchive completion --root /x --json ", "", []string{"bash", "fish", "zsh"}},
		{"ckarchive completion bash ", "", nil},
		{"ckarchive restore --pull ", "", []string{"always", "missing", "never"}},
		{"ckarchive restore --pull=", "", []string{"always", "missing", "never"}},
		{"ckarchive restore --pull=", "--pull=", []string{"--pull=always", "--pull=missing", "--pull=never"}},
		{"ckarchive export --runtime run", "run", []string{"runc", "runsc"}},
		{"ckarchive restore --id ", "", nil},
	} {
		words := strings.Fields(tt.line)
		if strings.HasSuffix(tt.line, " ") {
			words = append(words, "")
		}
		command, err := a.completions(t.Context(), parser, words)
		if err != nil {
			t.Fatal(err)
		}
		if got := completeWord(&command, words, tt.replaced); !slices.Equal(got, tt.want) {
			t.Errorf("%q, replacing %q: %q, want %q", tt.line, tt.replaced, got, tt.want)
		}
	}
}

func TestIsTame(t *testing.T) {
	for word, want := range map[string]bool{
		"warm:v1": true, "host.test:5000/team/shop:v1": true, "k8s/ns/pod_0-1": true, "größe.tar": true, "a+b,c=d@e%": true,
		"": false, "a b": false, "a\tb": false, "a\nb": false, "a\x1b[31m": false, "$(id)": false, "`id`": false, "a;b": false, "a|b": false, "a&b": false,
		"a'b": false, `a"b`: false, `a\b`: false, "~": false, "!1": false, "*": false, "#a": false, "a\u202eb": false, "\xff": false, "<a": false,
	} {
		if isTame(word) != want {
			t.Errorf("%q: %v, want %v", word, !want, want)
		}
	}
}
