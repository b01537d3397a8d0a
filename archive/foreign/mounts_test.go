package foreign_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

func TestWithoutMounts(t *testing.T) {
	const spec = `{"new":{"field":1},"mounts":[{"destination":"/proc","type":"proc","later":true},{"destination":"/run/.containerenv","type":"bind"}]}`
	got, err := foreign.WithoutMounts([]byte(spec), []string{"/run/.containerenv"})
	if err != nil {
		t.Fatal(err)
	}
	if s := string(got); strings.Contains(s, ".containerenv") || !strings.Contains(s, `"later":true`) || !strings.Contains(s, `"field":1`) || !json.Valid(got) {
		t.Errorf("it is %s", s)
	}
	if got, err := foreign.WithoutMounts([]byte(spec), nil); err != nil || string(got) != spec {
		t.Errorf("nothing was to go, and it is %s, %v", got, err)
	}
}

// Mounts that are left out are gone from every member that names them, and the list of members is right.
func TestConvertWithout(t *testing.T) {
	const image = "checkpoint/mountpoints-12.img"
	without := []string{"/run/.containerenv", "/etc/resolv.conf"} // the latter is in bind.mounts too
	opts := foreign.ConvertOptions{Without: without, Images: map[string][]byte{image: []byte("without it")}}
	list, err := archivetest.Read(t.Context(), convert(t, reading("testdata/crio.tar.zst"), opts))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range list {
		switch f.Name {
		case archive.SpecDump, archive.BindMounts, archive.MetadataFile:
			seen++
			for _, dest := range without {
				if strings.Contains(string(f.Content), `"`+dest+`"`) {
					t.Errorf("%s names %s", f.Name, dest)
				}
			}
		case image:
			seen++
			if string(f.Content) != "without it" {
				t.Errorf("%s is as it was", image)
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d of the members are there, want 4", seen)
	}
	if rep, err := archive.Verify(t.Context(), convert(t, reading("testdata/crio.tar.zst"), opts), archive.CopyOptions{}); err != nil || !rep.Proven {
		t.Errorf("verify: proven %v, %v", rep.Proven, err)
	}
}
