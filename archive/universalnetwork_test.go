package archive_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// Podman gives a container the network that config.dump says: none of its own making to one whose runtime
// made the namespace.
func TestUniversalNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		spec, mode string
		own        bool
		networks   int
	}{
		"host":    {`{"linux":{"namespaces":[{"type":"pid"}]}}`, "host", false, 0},
		"runtime": {`{"linux":{"namespaces":[{"type":"network"}]}}`, "none", true, 0},
		"engine":  {`{"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}`, "bridge", true, 1},
	} {
		files, err := archive.Universal(&archive.Metadata{Created: time.Unix(1, 0)}, []byte(test.spec))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			NetworkMode string
			CreateNetNS bool
			NewNetworks map[string]any
		}
		if err := json.Unmarshal(files[archive.ConfigDump], &got); err != nil {
			t.Fatal(err)
		}
		if got.NetworkMode != test.mode || got.CreateNetNS != test.own || len(got.NewNetworks) != test.networks {
			t.Errorf("%s: %+v, want %+v", name, got, test)
		}
	}
}
