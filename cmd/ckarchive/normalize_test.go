package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestWithoutMounts(t *testing.T) {
	const spec = `{"new":{"field":1},"mounts":[{"destination":"/proc","type":"proc","later":true},{"destination":"/run/.containerenv","type":"bind"}]}`
	got, err := withoutMounts([]byte(spec), []string{"/run/.containerenv"})
	if err != nil {
		t.Fatal(err)
	}
	if s := string(got); strings.Contains(s, ".containerenv") || !strings.Contains(s, `"later":true`) || !strings.Contains(s, `"field":1`) || !json.Valid(got) {
		t.Errorf("it is %s", s)
	}
	if got, err := withoutMounts([]byte(spec), nil); err != nil || string(got) != spec {
		t.Errorf("nothing was to go, and it is %s, %v", got, err)
	}
}
