package main

import (
	"errors"
	"strings"
	"testing"
)

// What the tools of containers/image call a place is no name here, and it is said what is.
func TestForeignTransports(t *testing.T) {
	for text, want := range map[string]string{
		"docker://quay.io/team/shop:1":        "quay.io/team/shop:1",
		"containers-storage:localhost/shop:1": "skopeo",
		"containers-storage:shop:1":           "skopeo",
		"docker-archive:/tmp/shop.tar:shop:1": "skopeo",
		"docker-daemon:shop:1":                "skopeo",
		"oops:shop:1":                         "./oops:shop:1",
	} {
		_, err := parseLocation(text)
		var usage *usageError
		if !errors.As(err, &usage) || !strings.Contains(usage.hint, want) || strings.Contains(usage.hint, "docker://") {
			t.Errorf("%s: %v, hint %+v", text, err, usage)
		}
	}
}
