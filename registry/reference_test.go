package registry

import (
	"errors"
	"strings"
	"testing"
)

func TestParseReference(t *testing.T) {
	sum := "sha256:" + strings.Repeat("0", 64)
	tests := []struct{ in, want string }{ // an empty want is an error
		{"host.test/a:1", "host.test/a:1"},
		{"host.test/a", "host.test/a:latest"},
		{"Host.Test:5000/a/b-c/d__e:V1.0", "host.test:5000/a/b-c/d__e:V1.0"},
		{"localhost/a", "localhost/a:latest"},
		{"[::1]:5000/a:1", "[::1]:5000/a:1"},
		{"127.0.0.1:5000/a@" + sum, "127.0.0.1:5000/a@" + sum},
		{"host.test/a:1@" + sum, "host.test/a:1@" + sum},
		{"docker.io/redis:7", "docker.io/library/redis:7"},
		{"docker.io/me/redis:7", "docker.io/me/redis:7"},
		{"host.test/a:" + strings.Repeat("t", 128), "host.test/a:" + strings.Repeat("t", 128)},
		{"host.test/a:" + strings.Repeat("t", 129), ""},
		{"host.test/" + strings.Repeat("a", maxRepositoryBytes-len("host.test/")) + ":1", "host.test/" + strings.Repeat("a", maxRepositoryBytes-len("host.test/")) + ":1"},
		{"host.test/" + strings.Repeat("a", maxRepositoryBytes-len("host.test/")+1) + ":1", ""},
		{"", ""},
		{"a", ""},
		{"redis:7", ""},
		{"me/redis:7", ""},
		{"/a:1", ""},
		{"host.test/", ""},
		{"host.test/a:", ""},
		{"host.test/a@", ""},
		{"host.test/A:1", ""},
		{"host.test/a//b", ""},
		{"host.test/../a", ""},
		{"host.test/a/..", ""},
		{"host.test/a?x=1", ""},
		{"host.test/a#x", ""},
		{"host.test/a%2f..", ""},
		{"host.test/a:1@sha256:..", ""},
		{"host.test/a:1@md5:" + strings.Repeat("0", 32), ""},
		{"host.test/a@" + strings.ToUpper(sum), ""},
		{"https://host.test/a", ""},
		{"user:pw@host.test/a", ""},
		{"user@host.test/a", ""},
		{"--x.y/a", ""},
		{"host.test /a", ""},
		{"host.test/a b", ""},
		{"höst.test/a", ""},
		{"host.test:0/a", ""},
		{"host.test:99999/a", ""},
		{"host.test:+80/a", ""},
		{"[::1/a", ""},
		{"[host.test]/a", ""},
		{"host..test/a", ""},
		{".test/a", ""},
		{"host.test/a\n", ""},
		{"host.test/-a", ""},
		{"host.test/a:-1", ""},
	}
	for _, tt := range tests {
		got, err := ParseReference(tt.in)
		switch {
		case tt.want == "" && !errors.Is(err, ErrReference):
			t.Errorf("ParseReference(%q): got %v, %v, want ErrReference", tt.in, got, err)
		case tt.want != "" && (err != nil || got.String() != tt.want):
			t.Errorf("ParseReference(%q): got %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, seed := range []string{"host.test/a:1", "localhost:5000/a/b@sha256:" + strings.Repeat("a", 64), "[::1]:1/a", "user:pw@host/a", "docker.io/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		ref, err := ParseReference(in)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q is read as %+v, printed as %q and then read as %+v, %v", in, ref, ref, again, err)
		}
		if strings.ContainsAny(ref.String(), " \t\n?#%\\'\"") || strings.Contains(ref.Repository, "..") {
			t.Errorf("%q: %q reached a URL", in, ref)
		}
		if err := CheckName(ref.String()); err != nil && len(ref.String()) <= maxNameBytes {
			t.Errorf("%q cannot be a name in a store: %v", ref, err)
		}
	})
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.8.9.1": true, "[::1]:5000": true, "[::1]": true,
		"host.test": false, "10.0.0.1:5000": false, "localhost.test": false, "127.0.0.1.test": false, "[::2]:1": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("isLoopback(%q): got %v, want %v", host, got, want)
		}
	}
}
