package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestPluginDescription answers nobody but checkpointctl.
func TestPluginDescription(t *testing.T) {
	for _, tt := range []struct {
		argv   string
		status int
		asked  bool
	}{
		{"/usr/bin/checkpointctl-ckarchive --plugin-description", 42, true},
		{"checkpointctl-ckarchive --plugin-description", 42, true},
		{"ckarchive --plugin-description", 0, false},
		{"checkpointctl-ckarchive list", 0, false},
		{"checkpointctl-ckarchive --plugin-description list", 0, false},
	} {
		var out bytes.Buffer
		status, asked := describedPlugin(strings.Fields(tt.argv), &out)
		if status != tt.status || asked != tt.asked || strings.Count(out.String(), "\n") != tt.status/42 {
			t.Errorf("%s: got %d, %v, %q", tt.argv, status, asked, out.String())
		}
	}
}
