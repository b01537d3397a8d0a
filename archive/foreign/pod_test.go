package foreign

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

// A container that leaves its pod keeps what is its own.
func TestLeavePod(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"of a pod":     {`{"id":"1","pod":"2","Dependencies":["3"],"netNsCtr":"3","ipcNsCtr":"3","ShmDir":"/there","networkMode":"container:3","createNetNS":false}`, []string{"id"}},
		"of a network": {`{"id":"1","pod":"","Dependencies":["3"],"netNsCtr":"3","ShmDir":"/own"}`, []string{"ShmDir", "id"}},
		"alone":        {`{"id":"1","Dependencies":[],"ShmDir":"/own","networkMode":"host"}`, []string{"Dependencies", "ShmDir", "id", "networkMode"}},
	} {
		var config map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.config), &config); err != nil {
			t.Fatal(err)
		}
		leavePod(config)
		if got := slices.Sorted(maps.Keys(config)); !slices.Equal(got, c.want) {
			t.Errorf("%s: it keeps %q, want %q", name, got, c.want)
		}
	}
}
